// The forward pass of one layer over some batch rows, chunk by chunk.

#pragma once

#include "passes/weights.h"

namespace brc::BRC_ISA {

template <class T, class Cell>
struct Forward {
  static constexpr CellShape shape = Cell::shape;
  using Sizes = Plan<T, Cell>;

  // One buffer of a chunk's arguments.
  struct Arguments {
    T* arguments;  // (S, n, ld_arguments)
    T* input;      // (S, n, ld_input), unless the layer below has it
    T* kept;       // (n, ld_states): what stands aside for reset states, if there are resets

    Arguments(Arena& arena, const Sizes& plan, const brc_layer& layer)
        : arguments(arena.take<T>(plan.positions, plan.rows, plan.ld_arguments)),
          input(arena.take<T>(plan.positions, plan.rows, plan.ld_input)),
          kept(arena.take<T>(layer.resets ? plan.rows : 0, plan.ld_states)) {}
  };

  // One buffer of states, (S + 1, n, ld_states): the first are those before the chunk.
  static T* take_states(Arena& arena, const Sizes& plan) {
    return arena.take<T>(plan.positions + 1, plan.rows, plan.ld_states);
  }

  // Some rows of a layer and one of their chunks.
  struct Chunk {
    const LayerRows& of;
    Sizes plan;
    Sequence sequence;
    Weights<T, Cell> weights;
    int64_t number, first, count;  // its positions: first <= p < first + count

    Chunk(const LayerRows& of, int64_t number)
        : Chunk(of, number, Arena(const_cast<void*>(of.weights))) {}

    Arguments arguments() const {
      Arena arena(of.arguments[number % 2]);
      return Arguments(arena, plan, *of.layer);
    }
    T* states(int64_t chunk) const { return static_cast<T*>(of.states[chunk % 2]); }

   private:
    Chunk(const LayerRows& of, int64_t number, Arena arena)
        : of(of),
          plan(*of.layer, of.rows, of.longest_chunk),
          sequence{*of.layer, of.rows},
          weights(arena, plan),
          number(number),
          first(number * plan.positions) {
      const int64_t left = of.layer->steps - first;
      count = left < plan.positions ? left : plan.positions;
    }
  };

  static ForwardSizes sizes(const brc_layer& layer, Range rows, int64_t longest_chunk) {
    const Sizes plan(layer, rows, longest_chunk);
    Arena weights(nullptr), arguments(nullptr), states(nullptr);
    Weights<T, Cell>(weights, plan);
    Arguments(arguments, plan, layer);
    take_states(states, plan);
    const int64_t chunks = (layer.steps + plan.positions - 1) / plan.positions;
    return {chunks, weights.used(), arguments.used(), states.used()};
  }

  // Whether matrices are read once and so where they lie: packing them would take longer.
  static bool reads_in_place(const brc_layer& layer) {
    return layer.steps == 1 && layer.batch == 1;
  }

  static void pack(const brc_layer& layer, void* memory) noexcept {
    const Sizes plan(layer, {0, 0});
    Arena arena(memory);
    const Weights<T, Cell> weights(arena, plan);
    if (reads_in_place(layer))
      weights.fill_vectors(layer, plan);
    else
      weights.fill(layer, plan);
  }

  static void project(const LayerRows& of, int64_t number) noexcept {
    const Chunk chunk(of, number);
    const Sizes& plan = chunk.plan;
    const Arguments own = chunk.arguments();
    const T* input = own.input;
    int64_t ld_input = plan.ld_input;
    if (of.below) {
      // A row's padding is not blank here as it is in an input, but neither is it read on.
      input = static_cast<const T*>(of.below[number % 2]) + plan.rows * plan.ld_states;
      ld_input = plan.ld_states;
    } else {
      const brc_layer& layer = *of.layer;
      gather(chunk.sequence, static_cast<const T*>(layer.input), layer.input_strides, plan.input,
             chunk.first, chunk.count, own.input, plan.ld_input);
    }
    if (reads_in_place(*of.layer))
      project_in_place(plan, chunk.weights, *of.layer, input, own.arguments);
    else
      BRC_ISA::project(plan, chunk.weights, chunk.count * plan.rows, input, ld_input,
                       own.arguments);
  }

  // One position of all rows: the states after it from those before and the arguments; saves what
  // the backward pass needs if asked to.
  static void advance(const Chunk& chunk, int64_t position, T* arguments, const T* before, T* after,
                      T* saved) {
    const Sizes& plan = chunk.plan;
    if (reads_in_place(*chunk.of.layer))
      add_memory_in_place(plan, *chunk.of.layer, before, arguments);
    else
      add_memory(plan, chunk.weights, plan.rows, before, arguments);
    const int64_t H = plan.hidden, P = plan.width;
    for (int64_t r = 0; r < plan.rows; ++r) {
      if (chunk.sequence.is_data(position, r))
        for_each_vector<T>(H, [&](auto width, int64_t j) {
          constexpr int N = width.value;
          const auto states = load_all<N, shape.states>(before + j, P);
          const auto gates =
              Cell::template gates<T, N>(load_all<N, shape.gates>(arguments + j, P),
                                         chunk.weights.template of_units<N>(plan, j), states);
          const auto next = Cell::template step<T, N>(gates, states);
#pragma GCC unroll 8
          for (int s = 0; s < shape.states; ++s) store<N>(after + s * P + j, next[s]);
          if (saved) {
            const auto quantities = Cell::template save<T, N>(gates, next);
#pragma GCC unroll 8
            for (int i = 0; i < shape.saved; ++i)
              store_first<N>(H - j, saved + i * H + j, quantities[i]);
          }
        });
      else {
        std::memcpy(after, before, size_t(plan.ld_states) * sizeof(T));
        if (saved) std::memset(saved, 0, size_t(shape.saved * H) * sizeof(T));
      }
      arguments += plan.ld_arguments;
      before += plan.ld_states;
      after += plan.ld_states;
      if (saved) saved += shape.saved * H;
    }
  }

  // Puts reset states in the place of the states before a position, in the rows that begin anew.
  static void reset(const Chunk& chunk, int64_t position, T* before, T* kept) {
    const int64_t ld = chunk.plan.ld_states;
    for (int64_t r = 0; r < chunk.plan.rows; ++r)
      if (chunk.sequence.begins_anew(position, r)) {
        std::memcpy(kept + r * ld, before + r * ld, size_t(ld) * sizeof(T));
        copy_states(chunk.sequence, chunk.of.layer->reset_states, shape.states, r, before + r * ld,
                    chunk.plan.width);
      }
  }

  // Puts back what was there: they are the states after the position before, which others read.
  static void restore(const Chunk& chunk, int64_t position, T* before, const T* kept) {
    const int64_t ld = chunk.plan.ld_states;
    for (int64_t r = 0; r < chunk.plan.rows; ++r)
      if (chunk.sequence.begins_anew(position, r))
        std::memcpy(before + r * ld, kept + r * ld, size_t(ld) * sizeof(T));
  }

  static void step(const LayerRows& of, int64_t number) noexcept {
    const Chunk chunk(of, number);
    const Sizes& plan = chunk.plan;
    const brc_layer& layer = *of.layer;
    const int64_t H = plan.hidden, P = plan.width, row = of.rows.first;
    const int64_t state_size = plan.rows * plan.ld_states;
    T* const states = chunk.states(number);
    const Arguments own = chunk.arguments();
    T* arguments = own.arguments;

    if (number == 0)
      for (int64_t r = 0; r < plan.rows; ++r)
        copy_states(chunk.sequence, layer.initial_states, shape.states, r,
                    states + r * plan.ld_states, P);
    for (int64_t i = 0; i < chunk.count; ++i, arguments += plan.rows * plan.ld_arguments) {
      const int64_t position = chunk.first + i;
      T* const saved = chunk.sequence.is_saved(position)
                           ? static_cast<T*>(of.saved) +
                                 chunk.sequence.saved_offset(position, shape.saved * H)
                           : nullptr;
      T* const before = states + i * state_size;
      if (layer.resets) reset(chunk, position, before, own.kept);
      advance(chunk, position, arguments, before, before + state_size, saved);
      if (layer.resets) restore(chunk, position, before, own.kept);
    }
    if (of.output) {
      const int64_t strides[] = {layer.batch * H, H, 1};
      scatter(chunk.sequence, states + state_size, plan.ld_states, H, chunk.first, chunk.count,
              static_cast<T*>(of.output), strides);
    }
    const T* const last = states + chunk.count * state_size;
    if (chunk.first + chunk.count < layer.steps)
      std::memcpy(chunk.states(number + 1), last, size_t(state_size) * sizeof(T));
    else
      for (int64_t r = 0; r < plan.rows; ++r)
        for (int s = 0; s < shape.states; ++s)
          std::memcpy(static_cast<T*>(of.last[s]) + (row + r) * H,
                      last + r * plan.ld_states + s * P, size_t(H) * sizeof(T));
  }

  static constexpr ForwardPass pass{&Cell::shape, sizes, pack, project, step};
};

}  // namespace brc::BRC_ISA
