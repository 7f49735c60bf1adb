// The forward pass of one layer over some batch rows, chunk by chunk.

#pragma once

#include "weights.h"

namespace brc::BRC_ISA {

template <class T, bool full>
struct Forward {
  // One slot of a chunk's gates.
  struct Drive {
    T* gates;  // (S, n, ld_gates)
    T* input;  // (S, n, ld_input), unless the layer below has it

    Drive(Arena& arena, const Plan<T>& plan)
        : gates(arena.take<T>(plan.positions, plan.rows, plan.ld_gates)),
          input(arena.take<T>(plan.positions, plan.rows, plan.ld_input)) {}
  };

  // One slot of states, (S + 1, n, ld_state): the first are those before the chunk.
  static T* take_states(Arena& arena, const Plan<T>& plan) {
    return arena.take<T>(plan.positions + 1, plan.rows, plan.ld_state);
  }

  // A lane and one of its chunks.
  struct Chunk {
    const Lane& lane;
    Plan<T> plan;
    Sequence sequence;
    Weights<T, full> weights;
    int64_t number, first, count;  // its positions: first <= p < first + count

    Chunk(const Lane& lane, int64_t number)
        : Chunk(lane, number, Arena(const_cast<void*>(lane.weights))) {}

    Drive drive() const {
      Arena arena(lane.gates[number % 2]);
      return Drive(arena, plan);
    }
    T* states(int64_t chunk) const { return static_cast<T*>(lane.states[chunk % 2]); }

   private:
    Chunk(const Lane& lane, int64_t number, Arena arena)
        : lane(lane),
          plan(*lane.layer, lane.rows, lane.longest_chunk),
          sequence{*lane.layer, lane.rows},
          weights(arena, plan),
          number(number),
          first(number * plan.positions) {
      const int64_t left = lane.layer->steps - first;
      count = left < plan.positions ? left : plan.positions;
    }
  };

  static LaneSizes sizes(const brc_layer& layer, Range rows, int64_t longest_chunk) {
    const Plan<T> plan(layer, rows, longest_chunk);
    Arena weights(nullptr), gates(nullptr), states(nullptr);
    Weights<T, full>(weights, plan);
    Drive(gates, plan);
    take_states(states, plan);
    const int64_t chunks = (layer.steps + plan.positions - 1) / plan.positions;
    return {chunks, weights.used(), gates.used(), states.used()};
  }

  static void pack(const brc_layer& layer, void* weights) noexcept {
    const Plan<T> plan(layer, {0, 0});
    Arena arena(weights);
    Weights<T, full>(arena, plan).fill(layer, plan);
  }

  static void drive(const Lane& lane, int64_t number) noexcept {
    const Chunk chunk(lane, number);
    const Plan<T>& plan = chunk.plan;
    const Drive own = chunk.drive();
    const T* input = own.input;
    if (lane.below) {
      // A row's padding is not blank here as it is in an input, but neither is it read on.
      input = static_cast<const T*>(lane.below[number % 2]) + plan.rows * plan.ld_input;
    } else {
      const brc_layer& layer = *lane.layer;
      gather(chunk.sequence, static_cast<const T*>(layer.input), layer.input_strides, plan.input,
             chunk.first, chunk.count, own.input, plan.ld_input);
    }
    BRC_ISA::drive(plan, chunk.weights, chunk.count * plan.rows, input, own.gates);
  }

  // One position of all rows: h_t from h_{t-1} and the drive; keeps c_t and a_t - 1 if asked to.
  static void step(const Chunk& chunk, int64_t position, T* gates, const T* state, T* next,
                   T* kept) {
    const Plan<T>& plan = chunk.plan;
    if constexpr (full) feed_back(plan, chunk.weights, plan.rows, state, gates);
    const int64_t H = plan.hidden;
    for (int64_t r = 0; r < plan.rows; ++r) {
      if (chunk.sequence.is_data(position, r))
        for_each_vector<T>(H, [&](auto width, int64_t j) {
          constexpr int N = width.value;
          const auto h = load<N>(state + j);
          const auto [c, a_less_1, candidate] = open<T, full, N>(plan, chunk.weights, gates, h, j);
          store<N>(next + j, c * h + (T(1) - c) * candidate);
          if (kept) {
            store_first<N>(H - j, kept + j, c);
            store_first<N>(H - j, kept + H + j, a_less_1);
          }
        });
      else {
        std::memcpy(next, state, size_t(plan.ld_state) * sizeof(T));
        if (kept) std::memset(kept, 0, size_t(2 * H) * sizeof(T));
      }
      gates += plan.ld_gates;
      state += plan.ld_state;
      next += plan.ld_state;
      if (kept) kept += 2 * H;
    }
  }

  static void recur(const Lane& lane, int64_t number) noexcept {
    const Chunk chunk(lane, number);
    const Plan<T>& plan = chunk.plan;
    const brc_layer& layer = *lane.layer;
    const int64_t H = plan.hidden, row = lane.rows.first;
    const int64_t state_size = plan.rows * plan.ld_state;
    T* const states = chunk.states(number);
    T* gates = chunk.drive().gates;

    if (number == 0)
      for (int64_t r = 0; r < plan.rows; ++r)
        copy_row(H, static_cast<const T*>(layer.h_0) + (row + r) * H, 1,
                 states + r * plan.ld_state, plan.ld_state);
    for (int64_t s = 0; s < chunk.count; ++s, gates += plan.rows * plan.ld_gates) {
      const int64_t position = chunk.first + s;
      T* const kept = chunk.sequence.keeps_gates(position)
                          ? static_cast<T*>(lane.outputs.gates) +
                                (chunk.sequence.kept_time(position) * layer.batch + row) * 2 * H
                          : nullptr;
      step(chunk, position, gates, states + s * state_size, states + (s + 1) * state_size, kept);
    }
    if (lane.outputs.output) {
      const int64_t strides[] = {layer.batch * H, H, 1};
      scatter(chunk.sequence, states + state_size, plan.ld_state, H, chunk.first, chunk.count,
              static_cast<T*>(lane.outputs.output), strides);
    }
    const T* const last = states + chunk.count * state_size;
    if (chunk.first + chunk.count < layer.steps)
      std::memcpy(chunk.states(number + 1), last, size_t(state_size) * sizeof(T));
    else
      for (int64_t r = 0; r < plan.rows; ++r)
        std::memcpy(static_cast<T*>(lane.outputs.last) + (row + r) * H, last + r * plan.ld_state,
                    size_t(H) * sizeof(T));
  }

  static constexpr ForwardPass stages{sizes, pack, drive, recur};
};

}  // namespace brc::BRC_ISA
