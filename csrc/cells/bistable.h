// The bistable recurrent cells, BRC and nBRC. With h = h_{t-1} and the candidate g:
//
//   c = sigmoid(U_c x + R_c(h) + b_c),   a = 1 + tanh(U_a x + R_a(h) + b_a),
//   g = tanh(U x + b + a h),             h_t = c h + (1 - c) g,
//
// where R(h) = w * h in the BRC, h W in the nBRC. With D the gradient of h_t, the gradients of the
// gates' arguments are
//
//   d_g = D (1 - c) (1 - g^2),   d_a = d_g h (1 - (a - 1)^2),   d_c = D c (1 - c) (h - g),
//
// and that of h is  D c + d_g a  and what comes through R_c and R_a.

#pragma once

#include "cells/interpolation.h"
#include "schedule/pass.h"
#include "simd/nonlinearities.h"

namespace brc::BRC_ISA {

template <bool memory_is_matrix>
struct Bistable {
  // The gates are c, a and g, in this order; c and a - 1 are saved.
  static constexpr CellShape shape{.gates = 3,
                                   .input_gates = 3,
                                   .kernel_place = {0, 1, 2},
                                   .first_memory_gate = 0,
                                   .memory_gates = 2,
                                   .memory_is_matrix = memory_is_matrix,
                                   .states = 1,
                                   .saved = 2,
                                   .step_cost = 50};

  template <class T, int N>
  struct Gates {
    Vector<T, N> c, a_less_1, candidate;
  };

  // From the arguments without w * h; w where the memory is no matrix.
  template <class T, int N>
  static Gates<T, N> gates(const Vectors<T, N, 3>& arguments, const Vectors<T, N, 2>& w,
                           const Vectors<T, N, 1>& before) {
    const Vector<T, N> h = before[0];
    Vector<T, N> of_c = arguments[0], of_a = arguments[1];
    if constexpr (!memory_is_matrix) {
      of_c += w[0] * h;
      of_a += w[1] * h;
    }
    const Vector<T, N> c = sigmoid<T, N>(of_c), a_less_1 = tanh<T, N>(of_a);
    return {c, a_less_1, tanh<T, N>(arguments[2] + (h + a_less_1 * h))};
  }

  template <class T, int N>
  static Vectors<T, N, 1> step(const Gates<T, N>& gates, const Vectors<T, N, 1>& before) {
    const auto& [c, a_less_1, g] = gates;
    return {{interpolate<T, N>(c, before[0], g)}};
  }

  template <class T, int N>
  static Vectors<T, N, 2> save(const Gates<T, N>& gates, const Vectors<T, N, 1>&) {
    return {{gates.c, gates.a_less_1}};
  }

  static constexpr int largest_to_recall = largest_to_interpolate;

  template <class T, int N>
  static Gates<T, N> recall(const Vectors<T, N, 2>& saved, const Vectors<T, N, 1>& before,
                            const Vectors<T, N, 1>& after) {
    return {saved[0], saved[1], recall_candidate<T, N>(saved[0], before[0], after[0])};
  }

  // The gradients of the arguments. `grad` goes from the gradient of the states after the step to
  // that of those before, without what comes through a matrix.
  template <class T, int N>
  static Vectors<T, N, 3> differentiate(const Gates<T, N>& gates, const Vectors<T, N, 2>& w,
                                        const Vectors<T, N, 1>& before, Vectors<T, N, 1>& grad) {
    using V = Vector<T, N>;
    const auto& [c, a_less_1, g] = gates;
    const V h = before[0], of_h = grad[0];
    const V of_g = of_h * (T(1) - c) * (T(1) - g * g);
    const V of_a = of_g * h * (T(1) - a_less_1 * a_less_1);
    const V of_c = of_h * c * (T(1) - c) * (h - g);
    grad[0] = of_h * c + (of_g + of_g * a_less_1);
    if constexpr (!memory_is_matrix) grad[0] += w[0] * of_c + w[1] * of_a;
    return {{of_c, of_a, of_g}};
  }
};

struct Brc : Bistable<false> {
  static constexpr const char* name = "brc";
};

struct Nbrc : Bistable<true> {
  static constexpr const char* name = "nbrc";
};

}  // namespace brc::BRC_ISA
