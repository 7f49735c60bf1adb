// The parameters as the products want them, and the gates computed from them.

#pragma once

#include "product.h"
#include "sequence.h"

namespace brc::BRC_ISA {

// Packs the gates' parameters, (K, H) each, side by side as a right factor (K, gates * P); the
// columns that pad a gate from H to P are zero.
template <class T>
void pack(int64_t K, int64_t gates, const Plan<T>& plan, const void* const* parameters,
          int64_t stride, T* packed) {
  const int64_t H = plan.hidden, P = plan.ld_state;
  for_each_panel<T>(gates * P, [&](auto width, auto vectors, int64_t first) {
    constexpr int64_t columns = width.value * vectors.value;
    if (H < P || first + columns > gates * P)
      std::memset(packed, 0, size_t(K * columns) * sizeof(T));
    for (int64_t column = first, end = first; column < first + columns; column = end) {
      const int64_t gate = column / P, unit = column % P;  // up to `end` they are of one gate
      end = (gate + 1) * P < first + columns ? (gate + 1) * P : first + columns;
      if (gate == gates) break;  // the panel's own padding
      const int64_t units = H - unit < end - column ? H - unit : end - column;
      const T* const parameter = static_cast<const T*>(parameters[gate]) + unit;
      for (int64_t k = 0; k < K && units > 0; ++k)
        std::memcpy(packed + k * columns + column - first, parameter + k * stride,
                    size_t(units) * sizeof(T));
    }
    packed += K * columns;
  });
}

// Packs its transpose (gates * P, K); the rows that pad a gate are zero.
template <class T>
void pack_transposed(int64_t K, int64_t gates, const Plan<T>& plan, const void* const* parameters,
                     int64_t stride, T* packed) {
  const int64_t H = plan.hidden, P = plan.ld_state;
  for_each_panel<T>(K, [&](auto width, auto vectors, int64_t first) {
    constexpr int64_t columns = width.value * vectors.value;
    std::memset(packed, 0, size_t(gates * P * columns) * sizeof(T));
    for (int64_t i = 0; i < columns && first + i < K; ++i)
      for (int64_t gate = 0; gate < gates; ++gate) {
        const T* const parameter = static_cast<const T*>(parameters[gate]) + (first + i) * stride;
        for (int64_t unit = 0; unit < H; ++unit)
          packed[(gate * P + unit) * columns + i] = parameter[unit];
      }
    packed += gates * P * columns;
  });
}

// The right factors and vectors of the forward pass.
template <class T, bool full>
struct Weights {
  T* kernel;  // packed (I, 3P)
  T* memory;  // full: packed (H, 2P); otherwise w_c, w_a (2P)
  T* bias;    // (ld_gates), zero where there is none

  Weights(Arena& arena, const Plan<T>& plan)
      : kernel(arena.take<T>(plan.input, plan.ld_gates)),
        memory(arena.take<T>(full ? plan.hidden : 1, padded<T>(2 * plan.ld_state))),
        bias(arena.take<T>(plan.ld_gates)) {}

  void fill(const brc_layer& layer, const Plan<T>& plan) const {
    const int64_t H = plan.hidden, P = plan.ld_state;
    pack(plan.input, 3, plan, layer.kernel, layer.kernel_stride, kernel);
    if constexpr (full)
      pack(H, 2, plan, layer.memory, layer.memory_stride, memory);
    else
      for (int64_t gate = 0; gate < 2; ++gate)
        copy_row(H, static_cast<const T*>(layer.memory[gate]), 1, memory + gate * P, P);
    for (int64_t j = 0; j < plan.ld_gates; ++j) bias[j] = 0;
    for (int64_t gate = 0; gate < 3; ++gate)
      if (layer.bias[gate])
        copy_row(H, static_cast<const T*>(layer.bias[gate]), 1, bias + gate * P, P);
  }
};

// The three gates' arguments of `count` rows: x U + bias (+ h W), (count, ld_gates).
template <class T, bool full>
void drive(const Plan<T>& plan, const Weights<T, full>& weights, int64_t count, const T* input,
           T* gates) {
  product<Left::rows, Right::packed>(count, 3 * plan.ld_state, plan.input, input, plan.ld_input,
                                     weights.kernel, 0, weights.bias, 0, gates, plan.ld_gates);
}

template <class T>
void feed_back(const Plan<T>& plan, const Weights<T, true>& weights, int64_t count, const T* state,
               T* gates) {
  product<Left::rows, Right::packed>(count, 2 * plan.ld_state, plan.hidden, state, plan.ld_state,
                                     weights.memory, 0, gates, plan.ld_gates, gates,
                                     plan.ld_gates);
}

// c, a - 1 and the candidate of one vector of units.
template <class T, int N>
struct Gates {
  Vector<T, N> c, a_less_1, candidate;
};

// gates: one row of drive; h: the previous state of the units from j on.
template <class T, bool full, int N>
inline Gates<T, N> open(const Plan<T>& plan, const Weights<T, full>& weights, const T* gates,
                        Vector<T, N> h, int64_t j) {
  const int64_t P = plan.ld_state;
  Vector<T, N> for_c = load<N>(gates + j), for_a = load<N>(gates + P + j);
  if constexpr (!full) {
    for_c += load<N>(weights.memory + j) * h;
    for_a += load<N>(weights.memory + P + j) * h;
  }
  const Vector<T, N> c = sigmoid<T, N>(for_c), a_less_1 = tanh<T, N>(for_a);
  return {c, a_less_1, tanh<T, N>(load<N>(gates + 2 * P + j) + (h + a_less_1 * h))};
}

}  // namespace brc::BRC_ISA
