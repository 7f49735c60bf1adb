// The backward pass of one layer over some batch rows.
//
// The gates' arguments are overwritten by their gradients, which stay in cache for the few
// positions at hand, until the products that make the gradients of the parameters and the input
// have read them.
//
// What is no unit's and no step's own has no part in any sum, for 0 times infinity is not 0: lanes
// that pad a gate are zeroed after each step, and so is the state of a row where it has no data.

#pragma once

#include "passes/weights.h"

namespace brc::BRC_ISA {

template <class T, class Cell>
struct Backward {
  static constexpr CellShape shape = Cell::shape;
  static constexpr bool has_matrix = shape.memory_is_matrix && shape.memory_gates > 0;
  static constexpr bool has_vector = !shape.memory_is_matrix && shape.memory_gates > 0;
  using Sizes = Plan<T, Cell>;

  struct Shared {
    Weights<T, Cell> forward;  // filled only to compute gates again, and for a memory of vectors
    T* kernel_transposed;      // packed (input gates * P, I)
    T* memory_transposed;      // matrix: packed (memory gates * P, H)

    Shared(Arena& arena, const Sizes& plan)
        : forward(arena, plan),
          kernel_transposed(arena.take<T>(shape.input_gates, plan.width, plan.ld_input)),
          memory_transposed(
              arena.take<T>(has_matrix ? shape.memory_gates : 0, plan.width, plan.width)) {}
  };

  struct Own {
    // The parameters' gradients come first: they lie alike in every thread.
    T* kernel;       // (I, ld_kernel)
    T* memory;       // matrix: (H, ld_memory); otherwise (ld_memory)
    T* bias;         // (ld_arguments), of all gates
    T* input;        // (S, n, ld_input): x_t, then its gradient
    T* arguments;    // (S, n, ld_arguments), then their gradients
    T* states;       // (S + 1, n, ld_states); the first are those before the first position at hand
    T* grad_output;  // (S, n, P)
    T* grad_states;  // (n, ld_states)
    T* grad_reset;   // (n, ld_states), if there are reset states
    T* after;        // (ld_states): a row's states where others stand in their place
    bool* is_large;  // (n): the row has states from which no gates can be recalled

    Own(Arena& arena, const Sizes& plan, const brc_layer& layer)
        : kernel(arena.take<T>(plan.input, plan.ld_kernel)),
          memory(arena.take<T>(has_matrix ? plan.hidden : 1, plan.ld_memory)),
          bias(arena.take<T>(plan.ld_arguments)),
          input(arena.take<T>(plan.positions, plan.rows, plan.ld_input)),
          arguments(arena.take<T>(plan.positions, plan.rows, plan.ld_arguments)),
          states(arena.take<T>(plan.positions + 1, plan.rows, plan.ld_states)),
          grad_output(arena.take<T>(plan.positions, plan.rows, plan.width)),
          grad_states(arena.take<T>(plan.rows, plan.ld_states)),
          grad_reset(arena.take<T>(layer.reset_states[0] ? plan.rows : 0, plan.ld_states)),
          after(arena.take<T>(plan.ld_states)),
          is_large(arena.take<bool>(plan.rows)) {}

    void clear_gradients() const {
      std::memset(kernel, 0, size_t(reinterpret_cast<char*>(input) -
                                    reinterpret_cast<char*>(kernel)));
      std::memset(grad_states, 0, size_t(reinterpret_cast<char*>(after) -
                                         reinterpret_cast<char*>(grad_states)));
    }
  };

  static BackwardSizes sizes(const brc_layer& layer, Range rows) {
    const Sizes plan(layer, rows);
    Arena shared(nullptr), own(nullptr);
    Shared(shared, plan);
    Own(own, plan, layer);
    return {shared.used(), own.used()};
  }

  // Whether rows begin with a first state that is too large to recall gates from, infinite or NaN.
  // A state lies between the one before it and a candidate, so none exceeds the larger of it and 1.
  static bool begin_large(const brc_layer& layer, Range rows) {
    constexpr T limit = Cell::largest_to_recall;
    const void* const firsts[] = {layer.initial_states[0], layer.reset_states[0]};
    for (const void* const states : firsts) {
      if (!states) continue;
      const T* const state = static_cast<const T*>(states);
      for (int64_t i = rows.first * layer.hidden_size; i < rows.last * layer.hidden_size; ++i)
        if (!(state[i] >= -limit && state[i] <= limit)) return true;
    }
    return false;
  }

  static void pack(const brc_layer& layer, void* shared) noexcept {
    const Sizes plan(layer, {0, 0});
    Arena arena(shared);
    const Shared weights(arena, plan);
    if (has_vector || layer.saved_steps < layer.steps || begin_large(layer, {0, layer.batch}))
      weights.forward.fill(layer, plan);
    pack_transposed(plan.input, shape.input_gates, plan, kernel_matrices<Cell>(layer),
                    weights.kernel_transposed);
    if constexpr (has_matrix)
      pack_transposed(plan.hidden, shape.memory_gates, plan, memory_matrices<Cell>(layer),
                      weights.memory_transposed);
  }

  // A row's states after a position but the first, from what was saved.
  static void copy_further_states(const Sequence& sequence, const Sizes& plan,
                                  const brc_gradients& gradients, int64_t position, int64_t row,
                                  T* states) {
    const int64_t H = plan.hidden, P = plan.width;
    for (int s = 1; s < shape.states; ++s)
      copy_row(H, static_cast<const T*>(gradients.saved) +
                      sequence.saved_offset(position, shape.saved * H) +
                      (row * shape.saved + shape.saved - shape.states + s) * H,
               1, states + s * P, P);
  }

  // The states before the positions first <= p < first + count, and behind them those after the
  // last. The first states come from the output, further ones from what was saved.
  static void gather_states(const Sequence& sequence, const Sizes& plan,
                            const brc_gradients& gradients, int64_t first, int64_t count,
                            T* states) {
    const brc_layer& layer = sequence.layer;
    const int64_t H = plan.hidden, P = plan.width;
    const int64_t strides[] = {layer.batch * H, H, 1};
    const auto at = [&](int64_t position, int64_t row) {
      return states + ((position - first + 1) * plan.rows + row) * plan.ld_states;
    };
    const auto begin = [&](int64_t position, int64_t row) {
      copy_states(sequence, layer.initial_states, shape.states, row, at(position, row), P);
    };
    const int64_t from = first > 0 ? first - 1 : 0;
    gather(sequence, static_cast<const T*>(gradients.output), strides, H, from,
           first + count - from, at(from, 0), plan.ld_states);
    for (int64_t p = from; shape.states > 1 && p < first + count; ++p)
      for (int64_t r = 0; r < plan.rows; ++r)
        copy_further_states(sequence, plan, gradients, p, r, at(p, r));
    if (first == 0)
      for (int64_t r = 0; r < plan.rows; ++r) begin(-1, r);
    if (layer.lengths && layer.reverse)  // a row keeps its first states until its data begins
      for (int64_t p = from; p < first + count; ++p)
        for (int64_t r = 0; r < plan.rows; ++r)
          if (!sequence.is_data(p, r)) begin(p, r);
    for (int64_t p = first; layer.resets && p < first + count; ++p)
      for (int64_t r = 0; r < plan.rows; ++r)
        if (sequence.begins_anew(p, r))
          copy_states(sequence, layer.reset_states, shape.states, r, at(p - 1, r), P);
  }

  // One row at one position: grad_states goes from the gradient of the states after it to that of
  // those before, without the part of a memory of matrices; arguments become their gradients.
  static void step_row(const Sizes& plan, const Weights<T, Cell>& weights, const T* before,
                       const T* after, const T* saved, const T* grad_output, T* arguments,
                       T* grad_states) {
    const int64_t H = plan.hidden, P = plan.width;
    for_each_vector<T>(H, [&](auto width, int64_t j) {
      constexpr int N = width.value;
      const auto states = load_all<N, shape.states>(before + j, P);
      const auto memory = weights.template of_units<N>(plan, j);
      const auto gates =
          saved ? Cell::template recall<T, N>(
                      load_all_first<N, shape.saved>(H - j, saved + j, H), states,
                      load_all<N, shape.states>(after + j, P))
                : Cell::template gates<T, N>(load_all<N, shape.gates>(arguments + j, P), memory,
                                             states);
      auto grad = load_all<N, shape.states>(grad_states + j, P);
      if (grad_output) grad[0] += load<N>(grad_output + j);
      const auto of_arguments = Cell::template differentiate<T, N>(gates, memory, states, grad);
#pragma GCC unroll 8
      for (int s = 0; s < shape.states; ++s)
        store<N>(grad_states + s * P + j, first_lanes<T, N>(H - j, grad[s]));
#pragma GCC unroll 8
      for (int gate = 0; gate < shape.gates; ++gate)
        store<N>(arguments + gate * P + j, first_lanes<T, N>(H - j, of_arguments[gate]));
    });
  }

  // Clears the states before positions without data; the arguments' gradients are zero already.
  static void clear_ended(const Sequence& sequence, const Sizes& plan, int64_t first,
                          int64_t count, T* states) {
    if (!sequence.layer.lengths) return;
    for (int64_t p = first; p < first + count; ++p)
      for (int64_t r = 0; r < plan.rows; ++r, states += plan.ld_states)
        if (!sequence.is_data(p, r)) std::memset(states, 0, size_t(plan.ld_states) * sizeof(T));
  }

  // Adds what `count` rows of arguments' gradients contribute to the parameters' gradients.
  static void accumulate(const Sizes& plan, int64_t count, const Own& own) {
    const int64_t P = plan.width;
    const T* const of_memory = own.arguments + shape.first_memory_gate * P;
    product<Left::columns, Right::row_major>(plan.input, shape.input_gates * P, count, own.input,
                                             plan.ld_input, own.arguments, plan.ld_arguments,
                                             own.kernel, plan.ld_kernel, own.kernel,
                                             plan.ld_kernel);
    if constexpr (has_matrix)
      product<Left::columns, Right::row_major>(plan.hidden, shape.memory_gates * P, count,
                                               own.states, plan.ld_states, of_memory,
                                               plan.ld_arguments, own.memory, plan.ld_memory,
                                               own.memory, plan.ld_memory);
    add_columns(plan, count, shape.gates * P, own.arguments, nullptr, own.bias);
    if constexpr (has_vector)
      for (int gate = 0; gate < shape.memory_gates; ++gate)
        add_columns(plan, count, P, of_memory + gate * P, own.states, own.memory + gate * P);
  }

  // to[j] += the sum of column j of `count` rows of gradients, each times its state if given.
  static void add_columns(const Sizes& plan, int64_t count, int64_t columns, const T* gradients,
                          const T* states, T* to) {
    for_each_vector<T>(columns, [&](auto width, int64_t j) {
      constexpr int N = width.value;
      Vector<T, N> sum = {};
      for (int64_t i = 0; i < count; ++i) {
        const auto gradient = load<N>(gradients + i * plan.ld_arguments + j);
        sum += states ? gradient * load<N>(states + i * plan.ld_states + j) : gradient;
      }
      store<N>(to + j, load<N>(to + j) + sum);
    });
  }

  // The gradients of the arguments at `count` positions, last first.
  static void step_back(const Sequence& sequence, const Sizes& plan, const Shared& weights,
                        const brc_gradients& gradients, int64_t first, int64_t count,
                        const Own& own) {
    const int64_t H = plan.hidden, P = plan.width, n = plan.rows;
    for (int64_t i = count - 1; i >= 0; --i) {
      T* const arguments = own.arguments + i * n * plan.ld_arguments;
      const T* const saved = sequence.is_saved(first + i)
                                 ? static_cast<const T*>(gradients.saved) +
                                       sequence.saved_offset(first + i, shape.saved * H)
                                 : nullptr;
      for (int64_t r = 0; r < n; ++r) {
        if (!sequence.is_data(first + i, r)) {
          std::memset(arguments + r * plan.ld_arguments, 0,
                      size_t(plan.ld_arguments) * sizeof(T));
          continue;
        }
        const T* const before = own.states + (i * n + r) * plan.ld_states;
        const T* after = before + n * plan.ld_states;
        if (i + 1 < count && sequence.begins_anew(first + i + 1, r)) {
          copy_row(H, static_cast<const T*>(gradients.output) +
                          (sequence.time(first + i) * sequence.layer.batch + sequence.rows.first +
                           r) * H,
                   1, own.after, P);
          copy_further_states(sequence, plan, gradients, first + i, r, own.after);
          after = own.after;
        }
        step_row(plan, weights.forward, before, after,
                 saved && !own.is_large[r] ? saved + r * shape.saved * H : nullptr,
                 gradients.grad_output ? own.grad_output + (i * n + r) * P : nullptr,
                 arguments + r * plan.ld_arguments, own.grad_states + r * plan.ld_states);
      }
      if constexpr (has_matrix)
        product<Left::rows, Right::packed>(n, H, shape.memory_gates * P,
                                           arguments + shape.first_memory_gate * P,
                                           plan.ld_arguments, weights.memory_transposed, 0,
                                           own.grad_states, plan.ld_states, own.grad_states,
                                           plan.ld_states);
      if (sequence.layer.resets) divert(sequence, plan, first + i, own);
    }
  }

  // What has come back to the states before a position is the reset states' in rows that began
  // anew there, and nobody else's.
  static void divert(const Sequence& sequence, const Sizes& plan, int64_t position,
                     const Own& own) {
    for (int64_t r = 0; r < plan.rows; ++r) {
      if (!sequence.begins_anew(position, r)) continue;
      T* const grad = own.grad_states + r * plan.ld_states;
      if (sequence.layer.reset_states[0])
        for (int64_t j = 0; j < plan.ld_states; ++j)
          own.grad_reset[r * plan.ld_states + j] += grad[j];
      std::memset(grad, 0, size_t(plan.ld_states) * sizeof(T));
    }
  }

  static void run(const brc_layer& layer, const brc_gradients& gradients, Range rows,
                  const void* shared, void* own_memory) noexcept {
    const Sizes plan(layer, rows);
    const Sequence sequence{layer, rows};
    Arena shared_arena(const_cast<void*>(shared)), own_arena(own_memory);
    const Shared weights(shared_arena, plan);
    const Own own(own_arena, plan, layer);
    const int64_t H = plan.hidden, P = plan.width, n = plan.rows;
    const int64_t state_size = layer.batch * H;

    own.clear_gradients();
    if (const T* const grad_last = static_cast<const T*>(gradients.grad_last))
      for (int64_t r = 0; r < n; ++r)
        for (int s = 0; s < shape.states; ++s)
          copy_row(H, grad_last + s * state_size + (rows.first + r) * H, 1,
                   own.grad_states + r * plan.ld_states + s * P, P);
    bool any_is_large = false;
    for (int64_t r = 0; r < n; ++r) {
      own.is_large[r] = begin_large(layer, {rows.first + r, rows.first + r + 1});
      any_is_large |= own.is_large[r];
    }

    const int64_t last_chunk = (layer.steps - 1) / plan.positions * plan.positions;
    for (int64_t first = last_chunk; first >= 0; first -= plan.positions) {
      const int64_t left = layer.steps - first;
      const int64_t count = left < plan.positions ? left : plan.positions;
      gather(sequence, static_cast<const T*>(layer.input), layer.input_strides, plan.input, first,
             count, own.input, plan.ld_input);
      gather_states(sequence, plan, gradients, first, count, own.states);
      if (gradients.grad_output)
        gather(sequence, static_cast<const T*>(gradients.grad_output),
               gradients.grad_output_strides, H, first, count, own.grad_output, P);
      const int64_t not_saved = any_is_large ? count : layer.steps - layer.saved_steps - first;
      if (const int64_t again = not_saved < count ? not_saved : count; again > 0) {
        project(plan, weights.forward, again * n, own.input, plan.ld_input, own.arguments);
        add_memory(plan, weights.forward, again * n, own.states, own.arguments);
      }
      step_back(sequence, plan, weights, gradients, first, count, own);
      clear_ended(sequence, plan, first, count, own.states);
      accumulate(plan, count * n, own);
      if (gradients.grad_input) {
        product<Left::rows, Right::packed, T>(count * n, plan.input, shape.input_gates * P,
                                              own.arguments, plan.ld_arguments,
                                              weights.kernel_transposed, 0, nullptr, 0, own.input,
                                              plan.ld_input);
        scatter(sequence, own.input, plan.ld_input, plan.input, first, count,
                static_cast<T*>(gradients.grad_input), gradients.grad_input_strides);
      }
    }
    const auto write_states = [&](const T* from, void* to) {
      for (int64_t r = 0; r < n; ++r)
        for (int s = 0; s < shape.states; ++s)
          std::memcpy(static_cast<T*>(to) + s * state_size + (rows.first + r) * H,
                      from + r * plan.ld_states + s * P, size_t(H) * sizeof(T));
    };
    write_states(own.grad_states, gradients.grad_initial_states);
    if (gradients.grad_reset_states) write_states(own.grad_reset, gradients.grad_reset_states);
  }

  // One gate's columns of a gradient without their padding, (rows, H).
  static void write(const Sizes& plan, int64_t rows, const T* from, int64_t ld, T* to,
                    const int64_t* strides) {
    // A transposed gradient is written as it is read, in whole lines of the cache.
    constexpr int64_t at_a_time = 64 / sizeof(T);
    const int64_t step = strides[1] == 1 ? plan.hidden : at_a_time;
    for (int64_t first = 0; first < plan.hidden; first += step) {
      const int64_t end = first + step < plan.hidden ? first + step : plan.hidden;
      for (int64_t i = 0; i < rows; ++i)
        if (strides[1] == 1)
          std::memcpy(to + i * strides[0] + first, from + i * ld + first,
                      size_t(end - first) * sizeof(T));
        else
          for (int64_t j = first; j < end; ++j)
            to[i * strides[0] + j * strides[1]] = from[i * ld + j];
    }
  }

  static void reduce(const brc_layer& layer, const brc_gradients& gradients, void* const* own,
                     int threads) noexcept {
    const Sizes plan(layer, {0, 0});
    const auto of = [&](int thread) {
      Arena arena(own[thread]);
      return Own(arena, plan, layer);
    };
    const Own total = of(0);
    const int64_t size = reinterpret_cast<char*>(total.input) -
                         reinterpret_cast<char*>(total.kernel);
    for (int thread = 1; thread < threads; ++thread) {
      const T* const part = of(thread).kernel;
      for (int64_t i = 0; i < size / int64_t(sizeof(T)); ++i) total.kernel[i] += part[i];
    }

    const int64_t H = plan.hidden, P = plan.width, dense[] = {0, 1};
    for (int gate = 0; gate < shape.input_gates; ++gate) {
      const int64_t place = shape.kernel_place[gate] * P;
      write(plan, plan.input, total.kernel + place, plan.ld_kernel,
            static_cast<T*>(gradients.grad_kernel) + gate * H * gradients.grad_kernel_strides[1],
            gradients.grad_kernel_strides);
      if (gradients.grad_bias && layer.bias[gate])
        write(plan, 1, total.bias + place, 0, static_cast<T*>(gradients.grad_bias) + gate * H,
              dense);
    }
    for (int gate = 0; gate < shape.memory_gates; ++gate) {
      write(plan, has_matrix ? H : 1, total.memory + gate * P, plan.ld_memory,
            static_cast<T*>(gradients.grad_memory) + gate * H * gradients.grad_memory_strides[1],
            gradients.grad_memory_strides);
      if (gradients.grad_memory_bias)
        write(plan, 1, total.bias + (shape.first_memory_gate + gate) * P, 0,
              static_cast<T*>(gradients.grad_memory_bias) + gate * H, dense);
    }
  }

  static constexpr BackwardPass pass{&Cell::shape, sizes, pack, run, reduce};
};

}  // namespace brc::BRC_ISA
