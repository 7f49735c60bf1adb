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
//
// Four of the five numbers i, f, g, o, c_t are saved. Where |c_t| > 1, o = h_t / tanh(c_t) keeps its
// digits. Elsewhere |f c| is at most 2, and the rounding that g = (c_t - f c) / i inherits, divided
// by i, meets the factor i in every gradient.

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
                                   .saved = 4,
                                   .step_cost = 80};

  template <class T, int N>
  struct Gates {
    Vector<T, N> i, f, g, o;
    Vector<T, N> c, tanh_c;  // of the state after
  };

  template <class T, int N>
  static Gates<T, N> gates(const Vectors<T, N, 4>& arguments, const Vectors<T, N, 4>&,
                           const Vectors<T, N, 2>& before) {
    const Vector<T, N> i = sigmoid<T, N>(arguments[0]), f = sigmoid<T, N>(arguments[1]),
                       g = tanh<T, N>(arguments[2]), c = f * before[1] + i * g;
    return {i, f, g, sigmoid<T, N>(arguments[3]), c, tanh<T, N>(c)};
  }

  template <class T, int N>
  static Vectors<T, N, 2> step(const Gates<T, N>& gates, const Vectors<T, N, 2>&) {
    return {{gates.o * gates.tanh_c, gates.c}};
  }

  template <class T, int N>
  static Vectors<T, N, 4> save(const Gates<T, N>& gates, const Vectors<T, N, 2>&) {
    return {{gates.i, gates.f, is_large<T, N>(gates.c) ? gates.g : gates.o, gates.c}};
  }

  // That of c_t decides, and it is saved: no gate is lost, however large a first state is.
  static constexpr int largest_to_recall = std::numeric_limits<int>::max();

  template <class T, int N>
  static Gates<T, N> recall(const Vectors<T, N, 4>& saved, const Vectors<T, N, 2>& before,
                            const Vectors<T, N, 2>& after) {
    using V = Vector<T, N>;
    const V i = saved[0], f = saved[1], c = saved[3], tanh_c = tanh<T, N>(c);
    const auto large = is_large<T, N>(c);
    const V share = large ? tanh_c : i, whole = large ? after[0] : c - f * before[1];
    // No share, no gradient: only i can be 0.
    const V other = share == T(0) ? V{} : clamp<N>(V(whole / share), T(-1), T(1));
    return {i, f, large ? saved[2] : other, large ? other : saved[2], c, tanh_c};
  }

  // `grad` goes from the gradients of the states after the step to those of the states before,
  // without what comes through the matrices.
  template <class T, int N>
  static Vectors<T, N, 4> differentiate(const Gates<T, N>& gates, const Vectors<T, N, 4>&,
                                        const Vectors<T, N, 2>& before, Vectors<T, N, 2>& grad) {
    using V = Vector<T, N>;
    const auto& [i, f, g, o, c, tanh_c] = gates;
    const V of_h = grad[0], of_c = grad[1] + of_h * o * (T(1) - tanh_c * tanh_c);
    grad[0] = V{};
    grad[1] = of_c * f;
    return {{of_c * g * i * (T(1) - i), of_c * before[1] * f * (T(1) - f),
             of_c * i * (T(1) - g * g), of_h * tanh_c * o * (T(1) - o)}};
  }

 private:
  template <class T, int N>
  static auto is_large(Vector<T, N> c) {
    return (c > T(1)) | (c < T(-1));
  }
};

}  // namespace brc::BRC_ISA
