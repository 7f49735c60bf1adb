// What the bistable cells and the GRU share: h_t = c h + (1 - c) g with h = h_{t-1}, a gate c and a
// candidate g in [-1, 1].

#pragma once

#include "simd/vector.h"

namespace brc::BRC_ISA {

template <class T, int N>
Vector<T, N> interpolate(Vector<T, N> c, Vector<T, N> before, Vector<T, N> g) {
  return c * before + (T(1) - c) * g;
}

// g from h and h_t. Where 1 - c is so small that g is lost in rounding, so is everything that g
// takes part in. But where |h| is larger than this, so are more digits of g than it can spare.
constexpr int largest_to_interpolate = 8;

template <class T, int N>
Vector<T, N> recall_candidate(Vector<T, N> c, Vector<T, N> before, Vector<T, N> after) {
  const Vector<T, N> share = T(1) - c;
  Vector<T, N> g = (after - c * before) / share;
  g = clamp<N>(g, T(-1), T(1));
  return share == T(0) ? broadcast<N>(T(0)) : g;
}

}  // namespace brc::BRC_ISA
