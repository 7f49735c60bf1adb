// The forward pass over one block.

#pragma once

#include "weights.h"

namespace brc::BRC_ISA {

template <class T, bool full>
struct Forward {
  struct Shared {
    T* states;  // (S + 1, n, ld_state); slot 0 is the state before the first position at hand

    Shared(Arena& arena, const Plan<T>& plan)
        : states(arena.take<T>((plan.positions + 1) * plan.rows * plan.ld_state)) {}
  };

  struct Own {
    T* input;  // (S, n, ld_input)
    T* gates;  // (S, n, ld_gates)

    Own(Arena& arena, const Plan<T>& plan)
        : input(arena.take<T>(plan.positions * plan.rows * plan.ld_input)),
          gates(arena.take<T>(plan.positions * plan.rows * plan.ld_gates)) {}
  };

  static Scratch scratch(const brc_layer& layer, const Block& block) {
    const Plan<T> plan(layer, block);
    Arena weights(nullptr), shared(nullptr), own(nullptr);
    Weights<T, full>(weights, plan);
    Shared(shared, plan);
    Own(own, plan);
    return {weights.used(), shared.used(), own.used()};
  }

  static void pack(const brc_layer& layer, const Block& block, void* weights) {
    const Plan<T> plan(layer, block);
    Arena arena(weights);
    Weights<T, full>(arena, plan).fill(layer, plan);
  }

  // One position of all rows: h_t from h_{t-1} and the drive; keeps c_t and a_t - 1 if asked to.
  static void step(const Sequence& sequence, const Plan<T>& plan, const Weights<T, full>& weights,
                   int64_t position, T* gates, const T* state, T* next, T* kept) {
    if constexpr (full) feed_back(plan, weights, plan.rows, state, gates);
    const int64_t H = plan.hidden, m = plan.units;
    state += plan.first_unit;
    next += plan.first_unit;
    if (kept) kept += plan.first_unit;
    for (int64_t r = 0; r < plan.rows; ++r) {
      if (sequence.is_data(position, r))
        for_each_vector<T>(m, [&](auto width, int64_t j) {
          constexpr int N = width.value;
          const auto h = load<N>(state + j);
          const auto [c, a_less_1, candidate] = open<T, full, N>(plan, weights, gates, h, j);
          store<N>(next + j, c * h + (T(1) - c) * candidate);
          if (kept) {
            store_first<N>(m - j, kept + j, c);
            store_first<N>(m - j, kept + H + j, a_less_1);
          }
        });
      else {
        std::memcpy(next, state, size_t(plan.ld_units) * sizeof(T));
        if (kept)
          for (int gate = 0; gate < 2; ++gate)
            std::memset(kept + gate * H, 0, size_t(m) * sizeof(T));
      }
      gates += plan.ld_gates;
      state += plan.ld_state;
      next += plan.ld_state;
      if (kept) kept += 2 * H;
    }
  }

  static void run(const brc_layer& layer, const Outputs& outputs, const Block& block,
                  const void* weights_memory, void* shared_memory, void* own_memory, Team* team) {
    const Plan<T> plan(layer, block);
    const Sequence sequence{layer, block.rows};
    Arena weights_arena(const_cast<void*>(weights_memory)), shared_arena(shared_memory),
        own_arena(own_memory);
    const Weights<T, full> weights(weights_arena, plan);
    const Shared shared(shared_arena, plan);
    const Own own(own_arena, plan);
    const int64_t H = plan.hidden, state_size = plan.rows * plan.ld_state;
    const int64_t first_row = block.rows.first, first_unit = plan.first_unit;
    const int64_t output_strides[] = {layer.batch * H, H, 1};
    T* const output = static_cast<T*>(outputs.output) + first_unit;
    T* const gates_kept = static_cast<T*>(outputs.gates);
    T* const own_states = shared.states + first_unit;
    const auto wait_for_the_others = [team] {
      if (full && team) meet(*team);
    };

    const T* const h_0 = static_cast<const T*>(layer.h_0) + first_row * H + first_unit;
    for (int64_t r = 0; r < plan.rows; ++r)
      copy_row(plan.units, h_0 + r * H, 1, own_states + r * plan.ld_state, plan.ld_units);
    for (int64_t first = 0; first < layer.steps; first += plan.positions) {
      const int64_t left = layer.steps - first;
      const int64_t count = left < plan.positions ? left : plan.positions;
      gather(sequence, static_cast<const T*>(layer.input), layer.input_strides, plan.input, first,
             count, own.input, plan.ld_input);
      drive(plan, weights, count * plan.rows, own.input, own.gates);
      for (int64_t s = 0; s < count; ++s) {
        wait_for_the_others();
        T* const state = shared.states + s * state_size;
        T* const kept =
            sequence.keeps_gates(first + s)
                ? gates_kept + (sequence.kept_time(first + s) * layer.batch + first_row) * 2 * H
                : nullptr;
        step(sequence, plan, weights, first + s, own.gates + s * plan.rows * plan.ld_gates, state,
             state + state_size, kept);
      }
      scatter(sequence, own_states + state_size, plan.ld_state, plan.units, first, count, output,
              output_strides);
      wait_for_the_others();  // one of them may still read slot 0
      for (int64_t r = 0; r < plan.rows; ++r)
        std::memcpy(own_states + r * plan.ld_state,
                    own_states + count * state_size + r * plan.ld_state,
                    size_t(plan.ld_units) * sizeof(T));
    }
    T* const last = static_cast<T*>(outputs.last) + first_row * H + first_unit;
    for (int64_t r = 0; r < plan.rows; ++r)
      std::memcpy(last + r * H, own_states + r * plan.ld_state, size_t(plan.units) * sizeof(T));
  }

  static constexpr ForwardPass stages{scratch, pack, run};
};

}  // namespace brc::BRC_ISA
