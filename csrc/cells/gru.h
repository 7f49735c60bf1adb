// The gated recurrent unit, by torch's equations. With h = h_{t-1}:
//
//   r = sigmoid(x W_ir + b_ir + h W_hr + b_hr),   z = sigmoid(x W_iz + b_iz + h W_hz + b_hz),
//   n = tanh(x W_in + b_in + r s),   s = h W_hn + b_hn,   h_t = (1 - z) n + z h.
//
// With D the gradient of h_t, those of the arguments are
//
//   d_n = D (1 - z) (1 - n^2),   d_r = d_n s r (1 - r),   d_z = D z (1 - z) (h - n),   d_s = d_n r,
//
// and that of h is  D z  and what comes through the matrices.

#pragma once

#include "cells/interpolation.h"
#include "schedule/pass.h"
#include "simd/nonlinearities.h"

namespace brc::BRC_ISA {

struct Gru {
  static constexpr const char* name = "gru";

  // The arguments are those of n without r s, of r, of z; and s. Outside, the order is r, z, n.
  static constexpr CellShape shape{.gates = 4,
                                   .input_gates = 3,
                                   .kernel_place = {1, 2, 0},
                                   .first_memory_gate = 1,
                                   .memory_gates = 3,
                                   .memory_is_matrix = true,
                                   .states = 1,
                                   .saved = 3,
                                   .step_cost = 55};

  template <class T, int N>
  struct Gates {
    Vector<T, N> r, z, s, n;
  };

  template <class T, int N>
  static Gates<T, N> gates(const Vectors<T, N, 4>& arguments, const Vectors<T, N, 3>&,
                           const Vectors<T, N, 1>&) {
    const Vector<T, N> r = sigmoid<T, N>(arguments[1]), z = sigmoid<T, N>(arguments[2]);
    return {r, z, arguments[3], tanh<T, N>(arguments[0] + r * arguments[3])};
  }

  template <class T, int N>
  static Vectors<T, N, 1> step(const Gates<T, N>& gates, const Vectors<T, N, 1>& before) {
    return {{interpolate<T, N>(gates.z, before[0], gates.n)}};
  }

  template <class T, int N>
  static Vectors<T, N, 3> save(const Gates<T, N>& gates, const Vectors<T, N, 1>&) {
    return {{gates.r, gates.z, gates.s}};
  }

  static constexpr int largest_to_recall = largest_to_interpolate;

  template <class T, int N>
  static Gates<T, N> recall(const Vectors<T, N, 3>& saved, const Vectors<T, N, 1>& before,
                            const Vectors<T, N, 1>& after) {
    return {saved[0], saved[1], saved[2], recall_candidate<T, N>(saved[1], before[0], after[0])};
  }

  // `grad` goes from the gradient of the state after the step to that of the one before, without
  // what comes through the matrices.
  template <class T, int N>
  static Vectors<T, N, 4> differentiate(const Gates<T, N>& gates, const Vectors<T, N, 3>&,
                                        const Vectors<T, N, 1>& before, Vectors<T, N, 1>& grad) {
    using V = Vector<T, N>;
    const auto& [r, z, s, n] = gates;
    const V of_h = grad[0];
    const V of_n = of_h * (T(1) - z) * (T(1) - n * n);
    const V of_r = of_n * s * r * (T(1) - r);
    const V of_z = of_h * z * (T(1) - z) * (before[0] - n);
    grad[0] = of_h * z;
    return {{of_n, of_r, of_z, of_n * r}};
  }
};

}  // namespace brc::BRC_ISA
