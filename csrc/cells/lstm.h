// Long short-term memory, by torch's equations. With h = h_{t-1} and c = c_{t-1}:
//
//   i = sigmoid(x W_ii + b_ii + h W_hi + b_hi),   f, o the same,   g = tanh(the same),
//   c_t = f c + i g,   h_t = o tanh(c_t).
//
// With D_h and D_c the gradients of h_t and c_t, that of c_t is in all
// E = D_c + D_h o (1 - tanh(c_t)^2); those of the arguments are
//
//   d_i = E g i (1 - i),   d_f = E c f (1 - f),   d_g = E i (1 - g^2),
//   d_o = D_h tanh(c_t) o (1 - o),
//
// that of c is  E f, and that of h what comes through the matrices.

#pragma once

#include <limits>

#include "schedule/pass.h"
#include "simd/nonlinearities.h"

namespace brc::BRC_ISA {

struct Lstm {
  static constexpr const char* name = "lstm";

  // The gates are i, f, g and o, the states h and c.
  static constexpr CellShape shape{.gates = 4,
                                   .input_gates = 4,
                                   .kernel_place = {0, 1, 2, 3},
                                   .first_memory_gate = 0,
                                   .memory_gates = 4,
                                   .memory_is_matrix = true,
                                   .states = 2,
                                   .saved = 5,
                                   .step_cost = 80};

  template <class T, int N>
  struct Gates {
    Vector<T, N> i, f, g, o;
  };

  template <class T, int N>
  static Gates<T, N> gates(const Vectors<T, N, 4>& arguments, const Vectors<T, N, 4>&,
                           const Vectors<T, N, 2>&) {
    return {sigmoid<T, N>(arguments[0]), sigmoid<T, N>(arguments[1]), tanh<T, N>(arguments[2]),
            sigmoid<T, N>(arguments[3])};
  }

  template <class T, int N>
  static Vectors<T, N, 2> step(const Gates<T, N>& gates, const Vectors<T, N, 2>& before) {
    const Vector<T, N> c = gates.f * before[1] + gates.i * gates.g;
    return {{gates.o * tanh<T, N>(c), c}};
  }

  template <class T, int N>
  static Vectors<T, N, 5> save(const Gates<T, N>& gates, const Vectors<T, N, 2>& after) {
    return {{gates.i, gates.f, gates.g, gates.o, after[1]}};
  }

  // All gates are saved: none is told from states, however large they are.
  static constexpr int largest_to_recall = std::numeric_limits<int>::max();

  template <class T, int N>
  static Gates<T, N> recall(const Vectors<T, N, 5>& saved, const Vectors<T, N, 2>&,
                            const Vectors<T, N, 2>&) {
    return {saved[0], saved[1], saved[2], saved[3]};
  }

  // `grad` goes from the gradients of the states after the step to those of the states before,
  // without what comes through the matrices.
  template <class T, int N>
  static Vectors<T, N, 4> differentiate(const Gates<T, N>& gates, const Vectors<T, N, 4>&,
                                        const Vectors<T, N, 2>& before, Vectors<T, N, 2>& grad) {
    using V = Vector<T, N>;
    const auto& [i, f, g, o] = gates;
    const V c = before[1], of_h = grad[0];
    const V tanh_c = tanh<T, N>(f * c + i * g);
    const V of_c = grad[1] + of_h * o * (T(1) - tanh_c * tanh_c);
    grad[0] = V{};
    grad[1] = of_c * f;
    return {{of_c * g * i * (T(1) - i), of_c * c * f * (T(1) - f), of_c * i * (T(1) - g * g),
             of_h * tanh_c * o * (T(1) - o)}};
  }
};

}  // namespace brc::BRC_ISA
