// The forward pass over some batch rows.

#pragma once

#include "weights.h"

namespace brc::BRC_ISA {

template <class T, bool full>
struct Forward {
  struct Own {
    T* input;   // (S, n, ld_input)
    T* gates;   // (S, n, ld_gates)
    T* states;  // (S + 1, n, ld_state); slot 0 is the state before the first position at hand

    Own(Arena& arena, const Plan<T>& plan)
        : input(arena.take<T>(plan.positions * plan.rows * plan.ld_input)),
          gates(arena.take<T>(plan.positions * plan.rows * plan.ld_gates)),
          states(arena.take<T>((plan.positions + 1) * plan.rows * plan.ld_state)) {}
  };

  static Scratch scratch(const brc_layer& layer, Rows range) {
    const Plan<T> plan(layer, range);
    Arena shared(nullptr), own(nullptr);
    Weights<T, full>(shared, plan);
    Own(own, plan);
    return {shared.used(), own.used()};
  }

  static void pack(const brc_layer& layer, void* shared) {
    const Plan<T> plan(layer, {0, 0});
    Arena arena(shared);
    Weights<T, full>(arena, plan).fill(layer, plan);
  }

  // One position of all rows: h_t from h_{t-1} and the drive; keeps c_t and a_t - 1 if asked to.
  static void step(const Sequence& sequence, const Plan<T>& plan, const Weights<T, full>& weights,
                   int64_t position, T* gates, const T* state, T* next, T* kept) {
    if constexpr (full) feed_back(plan, weights, plan.rows, state, gates);
    const int64_t H = plan.hidden;
    for (int64_t r = 0; r < plan.rows; ++r) {
      if (sequence.is_data(position, r))
        for_each_vector<T>(H, [&](auto width, int64_t j) {
          constexpr int N = width.value;
          const auto h = load<N>(state + j);
          const auto [c, a_less_1, candidate] = open<T, full, N>(plan, weights, gates, h, j);
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

  static void run(const brc_layer& layer, const Outputs& outputs, Rows range, const void* shared,
                  void* own) {
    const Plan<T> plan(layer, range);
    const Sequence sequence{layer, range};
    Arena shared_arena(const_cast<void*>(shared)), own_arena(own);
    const Weights<T, full> weights(shared_arena, plan);
    const Own buffers(own_arena, plan);
    const int64_t H = plan.hidden, state_size = plan.rows * plan.ld_state;
    const int64_t output_strides[] = {layer.batch * H, H, 1};
    const T* const h_0 = static_cast<const T*>(layer.h_0) + range.first * H;
    T* const gates_kept = static_cast<T*>(outputs.gates);

    for (int64_t r = 0; r < plan.rows; ++r)
      copy_row(H, h_0 + r * H, 1, buffers.states + r * plan.ld_state, plan.ld_state);
    for (int64_t first = 0; first < layer.steps; first += plan.positions) {
      const int64_t left = layer.steps - first;
      const int64_t count = left < plan.positions ? left : plan.positions;
      gather(sequence, static_cast<const T*>(layer.input), layer.input_strides, plan.input, first,
             count, buffers.input, plan.ld_input);
      drive(plan, weights, count * plan.rows, buffers.input, buffers.gates);
      for (int64_t s = 0; s < count; ++s) {
        T* const state = buffers.states + s * state_size;
        T* const kept =
            gates_kept ? gates_kept + (sequence.time(first + s) * layer.batch + range.first) * 2 * H
                       : nullptr;
        step(sequence, plan, weights, first + s, buffers.gates + s * plan.rows * plan.ld_gates,
             state, state + state_size, kept);
      }
      scatter(sequence, buffers.states + state_size, plan.ld_state, H, first, count,
              static_cast<T*>(outputs.output), output_strides);
      std::memcpy(buffers.states, buffers.states + count * state_size,
                  size_t(state_size) * sizeof(T));
    }
    T* const last = static_cast<T*>(outputs.last) + range.first * H;
    for (int64_t r = 0; r < plan.rows; ++r)
      std::memcpy(last + r * H, buffers.states + r * plan.ld_state, size_t(H) * sizeof(T));
  }

  static constexpr ForwardPass stages{scratch, pack, run};
};

}  // namespace brc::BRC_ISA
