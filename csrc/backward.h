// The backward pass over some batch rows.
//
// With D the gradient of h_t, g the candidate and h = h_{t-1}, the gradients of the gates'
// arguments are
//   d_u = D (1 - c) (1 - g^2),   d_a = d_u h (1 - (a - 1)^2),   d_c = D c (1 - c) (h - g),
// and that of h is  D c + d_u a + R_c^T d_c + R_a^T d_a.  They stay in cache for the few positions
// at hand, until the products that make the gradients of the parameters and the input have read
// them.
//
// What is no unit's and no step's own has no part in any sum, for 0 times infinity is not 0: lanes
// that pad a gate are zeroed after each step, and so is the state of a row where it has no data.

#pragma once

#include "weights.h"

namespace brc::BRC_ISA {

template <class T, bool full>
struct Backward {
  struct Shared {
    Weights<T, full> forward;  // filled only to compute gates again, and for the BRC's w
    T* kernel_transposed;      // packed (3P, I)
    T* memory_transposed;      // full: packed (2P, H)

    Shared(Arena& arena, const Plan<T>& plan)
        : forward(arena, plan),
          kernel_transposed(arena.take<T>(3, plan.ld_state, plan.ld_input)),
          memory_transposed(arena.take<T>(full ? 2 : 0, plan.ld_state, plan.ld_state)) {}
  };

  struct Own {
    // The parameters' gradients come first: they lie alike in every thread.
    T* kernel;       // (I, ld_gates)
    T* memory;       // full: (H, 2P); otherwise (2P)
    T* bias;         // (ld_gates)
    T* input;        // (S, n, ld_input): x_t, then its gradient
    T* gates;        // (S, n, ld_gates): the gates' arguments, then their gradients
    T* states;       // (S + 1, n, ld_state); slot 0 is the state before the first position at hand
    T* grad_output;  // (S, n, ld_state)
    T* grad_state;   // (n, ld_state)
    bool* is_large;  // (n): the row has states from which no candidate can be told

    Own(Arena& arena, const Plan<T>& plan)
        : kernel(arena.take<T>(plan.input, plan.ld_gates)),
          memory(arena.take<T>(full ? plan.hidden : 1, 2 * plan.ld_state)),
          bias(arena.take<T>(plan.ld_gates)),
          input(arena.take<T>(plan.positions, plan.rows, plan.ld_input)),
          gates(arena.take<T>(plan.positions, plan.rows, plan.ld_gates)),
          states(arena.take<T>(plan.positions + 1, plan.rows, plan.ld_state)),
          grad_output(arena.take<T>(plan.positions, plan.rows, plan.ld_state)),
          grad_state(arena.take<T>(plan.rows, plan.ld_state)),
          is_large(arena.take<bool>(plan.rows)) {}

    void clear_gradients(const Plan<T>& plan) const {
      std::memset(kernel, 0, size_t(reinterpret_cast<char*>(input) -
                                    reinterpret_cast<char*>(kernel)));
      std::memset(grad_state, 0, size_t(plan.rows * plan.ld_state) * sizeof(T));
    }
  };

  static Scratch scratch(const brc_layer& layer, Range rows) {
    const Plan<T> plan(layer, rows);
    Arena shared(nullptr), own(nullptr);
    Shared(shared, plan);
    Own(own, plan);
    return {shared.used(), own.used()};
  }

  // Whether rows of states begin with one that is large, infinite or NaN. A state lies between the
  // one before it and a candidate, so no later one exceeds the larger of it and 1.
  static bool begin_large(const brc_layer& layer, Range rows) {
    constexpr T large = 8;  // |h| times the rounding error is what the candidate loses
    const T* const h_0 = static_cast<const T*>(layer.h_0);
    for (int64_t i = rows.first * layer.hidden_size; i < rows.last * layer.hidden_size; ++i)
      if (!(h_0[i] >= -large && h_0[i] <= large)) return true;
    return false;
  }

  static void pack(const brc_layer& layer, void* shared) noexcept {
    const Plan<T> plan(layer, {0, 0});
    Arena arena(shared);
    const Shared weights(arena, plan);
    if (!full || layer.kept_steps < layer.steps || begin_large(layer, {0, layer.batch}))
      weights.forward.fill(layer, plan);
    pack_transposed(plan.input, 3, plan, layer.kernel, layer.kernel_stride,
                    weights.kernel_transposed);
    if constexpr (full)
      pack_transposed(plan.hidden, 2, plan, layer.memory, layer.memory_stride,
                      weights.memory_transposed);
  }

  // The states after positions first - 1 <= p < first + count, (count + 1, n, ld_state).
  static void gather_states(const Sequence& sequence, const Plan<T>& plan, const T* output,
                            int64_t first, int64_t count, T* states) {
    const brc_layer& layer = sequence.layer;
    const int64_t H = plan.hidden;
    const int64_t strides[] = {layer.batch * H, H, 1};
    const T* const h_0 = static_cast<const T*>(layer.h_0) + sequence.rows.first * H;
    const auto start_from_h_0 = [&](int64_t position, int64_t row) {
      T* const state = states + ((position - first + 1) * plan.rows + row) * plan.ld_state;
      copy_row(H, h_0 + row * H, 1, state, plan.ld_state);
    };
    const int64_t from = first > 0 ? first - 1 : 0;
    gather(sequence, output, strides, H, from, first + count - from,
           states + (from - first + 1) * plan.rows * plan.ld_state, plan.ld_state);
    if (first == 0)
      for (int64_t r = 0; r < plan.rows; ++r) start_from_h_0(-1, r);
    if (layer.lengths && layer.reverse)  // a row keeps its h_0 until its data begins
      for (int64_t p = from; p < first + count; ++p)
        for (int64_t r = 0; r < plan.rows; ++r)
          if (!sequence.is_data(p, r)) start_from_h_0(p, r);
  }

  // The gates of one vector of units as the forward pass kept them, (c, a - 1) at `kept`; the
  // candidate follows from h_t = c h + (1 - c) g, unless h is large. Where 1 - c is so small that g
  // is lost in rounding, so is everything that g takes part in.
  template <int N>
  static Gates<T, N> recall(int64_t H, int64_t j, const T* kept, Vector<T, N> h,
                            Vector<T, N> next) {
    const auto c = load_first<N>(H - j, kept + j), a_less_1 = load_first<N>(H - j, kept + H + j);
    const auto open = T(1) - c;
    auto candidate = (next - c * h) / open;
    candidate = clamp<N>(candidate, T(-1), T(1));
    candidate = open == T(0) ? broadcast<N>(T(0)) : candidate;
    return {c, a_less_1, candidate};
  }

  // One row at one position: grad_state goes from the gradient of h_t to that of h_{t-1}, less the
  // full R's part; gates become the gradients of the gates' arguments.
  static void step_row(const Plan<T>& plan, const Weights<T, full>& weights, const T* state,
                       const T* kept, const T* grad_output, T* gates, T* grad_state) {
    const int64_t H = plan.hidden, P = plan.ld_state, next = plan.rows * P;
    for_each_vector<T>(H, [&](auto width, int64_t j) {
      constexpr int N = width.value;
      using V = Vector<T, N>;
      const V h = load<N>(state + j);
      const auto [c, a_less_1, g] =
          kept ? recall<N>(H, j, kept, h, load<N>(state + next + j))
               : open<T, full, N>(plan, weights, gates, h, j);
      V grad = load<N>(grad_state + j);
      if (grad_output) grad += load<N>(grad_output + j);
      const V grad_u = grad * (T(1) - c) * (T(1) - g * g);
      const V grad_a = grad_u * h * (T(1) - a_less_1 * a_less_1);
      const V grad_c = grad * c * (T(1) - c) * (h - g);
      grad = grad * c + (grad_u + grad_u * a_less_1);
      if constexpr (!full)
        grad += load<N>(weights.memory + j) * grad_c + load<N>(weights.memory + P + j) * grad_a;
      store<N>(grad_state + j, first_lanes<T, N>(H - j, grad));
      store<N>(gates + j, first_lanes<T, N>(H - j, grad_c));
      store<N>(gates + P + j, first_lanes<T, N>(H - j, grad_a));
      store<N>(gates + 2 * P + j, first_lanes<T, N>(H - j, grad_u));
    });
  }

  // Clears the states before positions without data; the gate gradients there are zero already.
  static void clear_ended(const Sequence& sequence, const Plan<T>& plan, int64_t first,
                          int64_t count, T* states) {
    if (!sequence.layer.lengths) return;
    for (int64_t p = first; p < first + count; ++p)
      for (int64_t r = 0; r < plan.rows; ++r, states += plan.ld_state)
        if (!sequence.is_data(p, r)) std::memset(states, 0, size_t(plan.ld_state) * sizeof(T));
  }

  // Adds what `count` rows of gate gradients contribute to the parameters' gradients.
  static void accumulate(const Plan<T>& plan, int64_t count, const Own& own) {
    const int64_t P = plan.ld_state;
    product<Left::columns, Right::row_major>(plan.input, 3 * P, count, own.input, plan.ld_input,
                                             own.gates, plan.ld_gates, own.kernel, plan.ld_gates,
                                             own.kernel, plan.ld_gates);
    if constexpr (full)
      product<Left::columns, Right::row_major>(plan.hidden, 2 * P, count, own.states, P, own.gates,
                                               plan.ld_gates, own.memory, 2 * P, own.memory,
                                               2 * P);
    add_columns(plan, count, 3 * P, own.gates, nullptr, own.bias);
    if constexpr (!full)
      for (int64_t gate = 0; gate < 2; ++gate)
        add_columns(plan, count, P, own.gates + gate * P, own.states, own.memory + gate * P);
  }

  // to[j] += the sum of column j of `count` rows of gate gradients, each times its state if given.
  static void add_columns(const Plan<T>& plan, int64_t count, int64_t columns, const T* gates,
                          const T* states, T* to) {
    for_each_vector<T>(columns, [&](auto width, int64_t j) {
      constexpr int N = width.value;
      Vector<T, N> sum = {};
      for (int64_t i = 0; i < count; ++i) {
        const auto gate = load<N>(gates + i * plan.ld_gates + j);
        sum += states ? gate * load<N>(states + i * plan.ld_state + j) : gate;
      }
      store<N>(to + j, load<N>(to + j) + sum);
    });
  }

  static void run(const brc_layer& layer, const brc_gradients& gradients, Range rows,
                  const void* shared, void* own_memory) noexcept {
    const Plan<T> plan(layer, rows);
    const Sequence sequence{layer, rows};
    Arena shared_arena(const_cast<void*>(shared)), own_arena(own_memory);
    const Shared weights(shared_arena, plan);
    const Own own(own_arena, plan);
    const int64_t H = plan.hidden, P = plan.ld_state, n = plan.rows;
    const T* const gates_kept = static_cast<const T*>(gradients.gates);
    const T* const grad_output = static_cast<const T*>(gradients.grad_output);

    own.clear_gradients(plan);
    if (const T* const grad_last = static_cast<const T*>(gradients.grad_last))
      for (int64_t r = 0; r < n; ++r)
        copy_row(H, grad_last + (rows.first + r) * H, 1, own.grad_state + r * P, P);
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
      gather_states(sequence, plan, static_cast<const T*>(gradients.output), first, count,
                    own.states);
      if (grad_output)
        gather(sequence, grad_output, gradients.grad_output_strides, H, first, count,
               own.grad_output, P);
      const int64_t not_kept = any_is_large ? count : layer.steps - layer.kept_steps - first;
      if (const int64_t again = not_kept < count ? not_kept : count; again > 0) {
        drive(plan, weights.forward, again * n, own.input, own.gates);
        if constexpr (full) feed_back(plan, weights.forward, again * n, own.states, own.gates);
      }

      for (int64_t s = count - 1; s >= 0; --s) {
        T* const gates = own.gates + s * n * plan.ld_gates;
        const T* const kept =
            sequence.keeps_gates(first + s)
                ? gates_kept +
                      (sequence.kept_time(first + s) * layer.batch + rows.first) * 2 * H
                : nullptr;
        for (int64_t r = 0; r < n; ++r)
          if (sequence.is_data(first + s, r))
            step_row(plan, weights.forward, own.states + (s * n + r) * P,
                     kept && !own.is_large[r] ? kept + r * 2 * H : nullptr,
                     grad_output ? own.grad_output + (s * n + r) * P : nullptr,
                     gates + r * plan.ld_gates, own.grad_state + r * P);
          else
            std::memset(gates + r * plan.ld_gates, 0, size_t(plan.ld_gates) * sizeof(T));
        if constexpr (full)
          product<Left::rows, Right::packed>(n, H, 2 * P, gates, plan.ld_gates,
                                             weights.memory_transposed, 0, own.grad_state, P,
                                             own.grad_state, P);
      }

      clear_ended(sequence, plan, first, count, own.states);
      accumulate(plan, count * n, own);
      if (gradients.grad_input) {
        product<Left::rows, Right::packed, T>(count * n, plan.input, 3 * P, own.gates,
                                              plan.ld_gates, weights.kernel_transposed, 0, nullptr,
                                              0, own.input, plan.ld_input);
        scatter(sequence, own.input, plan.ld_input, plan.input, first, count,
                static_cast<T*>(gradients.grad_input), gradients.grad_input_strides);
      }
    }
    T* const grad_h_0 = static_cast<T*>(gradients.grad_h_0) + rows.first * H;
    for (int64_t r = 0; r < n; ++r)
      std::memcpy(grad_h_0 + r * H, own.grad_state + r * P, size_t(H) * sizeof(T));
  }

  // The sum over threads of one padded gradient, (rows, gates * P), without its padding.
  template <class Get>
  static void sum(const Plan<T>& plan, int64_t rows, int64_t gates, int64_t ld, int threads,
                  Get&& get, T* to) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t gate = 0; gate < gates; ++gate, to += plan.hidden) {
        const int64_t from = i * ld + gate * plan.ld_state;
        std::memcpy(to, get(0) + from, size_t(plan.hidden) * sizeof(T));
        for (int thread = 1; thread < threads; ++thread) {
          const T* const part = get(thread) + from;
          for (int64_t j = 0; j < plan.hidden; ++j) to[j] += part[j];
        }
      }
  }

  static void reduce(const brc_layer& layer, const brc_gradients& gradients, void* const* own,
                     int threads) noexcept {
    const Plan<T> plan(layer, {0, 0});
    const auto of = [&](int thread) {
      Arena arena(own[thread]);
      return Own(arena, plan);
    };
    const int64_t P = plan.ld_state;
    sum(plan, plan.input, 3, plan.ld_gates, threads, [&](int i) { return of(i).kernel; },
        static_cast<T*>(gradients.grad_kernel));
    sum(plan, full ? plan.hidden : 1, 2, 2 * P, threads, [&](int i) { return of(i).memory; },
        static_cast<T*>(gradients.grad_memory));
    if (gradients.grad_bias)
      sum(plan, 1, layer.bias[2] ? 3 : 2, plan.ld_gates, threads, [&](int i) { return of(i).bias; },
          static_cast<T*>(gradients.grad_bias));
  }

  static constexpr BackwardPass stages{scratch, pack, run, reduce};
};

}  // namespace brc::BRC_ISA
