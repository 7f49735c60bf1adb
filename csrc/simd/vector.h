// Vectors of a fixed number of lanes.
//
// Written with the vector extension of GCC and Clang, so that one source serves every instruction
// set. Everything lives in a namespace of the instruction set it is compiled for: the linker would
// otherwise merge, say, an AVX-512 and a baseline instance of one template.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace brc::BRC_ISA {

using std::int32_t;
using std::int64_t;
using std::ptrdiff_t;
using std::size_t;

// An integer as wide as a number.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

template <class T, int N>
struct VectorOf {
  using type [[gnu::vector_size(N * sizeof(T))]] = T;
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

template <int N, class T>
inline Vector<T, N> load(const T* from) {
  Vector<T, N> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <int N, class T>
inline void store(T* to, Vector<T, N> v) {
  std::memcpy(to, &v, sizeof v);
}

// The same for the last vector of a row, of which only `count` columns exist; the others read as 0.
template <int N, class T>
inline Vector<T, N> load_first(int64_t count, const T* from) {
  if (count >= N) return load<N>(from);
  Vector<T, N> v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = from[i];
  return v;
}

template <int N, class T>
inline void store_first(int64_t count, T* to, Vector<T, N> v) {
  if (count >= N) return store<N>(to, v);
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
}

template <int N, class T>
inline Vector<T, N> broadcast(T x) {
  return x - Vector<T, N>{};  // x - 0 is x, -0 and NaN included
}

// Several vectors of the same units: those of a cell's gates, say.
template <class T, int N, int count>
struct Vectors {
  Vector<T, N> at[count ? count : 1];
  Vector<T, N>& operator[](int i) { return at[i]; }
  const Vector<T, N>& operator[](int i) const { return at[i]; }
};

// `count` vectors that lie `stride` apart.
template <int N, int count, class T>
inline Vectors<T, N, count> load_all(const T* from, int64_t stride) {
  Vectors<T, N, count> v;
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) v[i] = load<N>(from + i * stride);
  return v;
}

template <int N, int count, class T>
inline Vectors<T, N, count> load_all_first(int64_t lanes, const T* from, int64_t stride) {
  Vectors<T, N, count> v;
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) v[i] = load_first<N>(lanes, from + i * stride);
  return v;
}

// Rows of a 4 x 4 block from its columns.
template <class T>
inline Vectors<T, 4, 4> transposed(const Vectors<T, 4, 4>& columns) {
  using V = Vector<T, 4>;
  const auto [a, b, c, d] = columns.at;
  const V low_ac{a[0], c[0], a[1], c[1]}, high_ac{a[2], c[2], a[3], c[3]};
  const V low_bd{b[0], d[0], b[1], d[1]}, high_bd{b[2], d[2], b[3], d[3]};
  return {{V{low_ac[0], low_bd[0], low_ac[1], low_bd[1]},
           V{low_ac[2], low_bd[2], low_ac[3], low_bd[3]},
           V{high_ac[0], high_bd[0], high_ac[1], high_bd[1]},
           V{high_ac[2], high_bd[2], high_ac[3], high_bd[3]}}};
}

// a < b ? a : b, which is b where one of them is NaN: an instruction of x86 that compilers do not
// find in the comparison. The same for a > b.
#ifdef __SSE2__
#define BRC_MINIMUM_AND_MAXIMUM(vector, prefix, suffix)                                   \
  inline vector lesser(vector a, vector b) { return prefix##_min_##suffix(a, b); }        \
  inline vector greater(vector a, vector b) { return prefix##_max_##suffix(a, b); }
BRC_MINIMUM_AND_MAXIMUM(__m128, _mm, ps)
BRC_MINIMUM_AND_MAXIMUM(__m128d, _mm, pd)
#ifdef __AVX__
BRC_MINIMUM_AND_MAXIMUM(__m256, _mm256, ps)
BRC_MINIMUM_AND_MAXIMUM(__m256d, _mm256, pd)
#endif
#ifdef __AVX512F__
BRC_MINIMUM_AND_MAXIMUM(__m512, _mm512, ps)
BRC_MINIMUM_AND_MAXIMUM(__m512d, _mm512, pd)
#endif
#undef BRC_MINIMUM_AND_MAXIMUM
#else
template <class V>
inline V lesser(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V greater(V a, V b) {
  return a > b ? a : b;
}
#endif

// low <= x <= high, or NaN.
template <int N, class T>
inline Vector<T, N> clamp(Vector<T, N> x, T low, T high) {
  return greater(broadcast<N>(low), lesser(broadcast<N>(high), x));
}

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// The first `count` lanes of v, and zero in the others, whatever stands there.
template <class T, int N>
inline Vector<T, N> first_lanes(int64_t count, Vector<T, N> v) {
  if (count >= N) return v;
  using Integers = Vector<Bits<T>, N>;
  Integers number;
  for (int i = 0; i < N; ++i) number[i] = i;
  return bit_cast<Vector<T, N>>(bit_cast<Integers>(v) & (number < Bits<T>(count)));
}

// Lanes of the widest vector of this instruction set.
template <class T>
constexpr int lanes = BRC_VECTOR_BYTES / int(sizeof(T));

// Lanes of the narrowest vector in use: a quarter of the widest, at least 16 bytes.
template <class T>
constexpr int narrow = (BRC_VECTOR_BYTES >= 64 ? BRC_VECTOR_BYTES / 4 : 16) / int(sizeof(T));

// Width of the vector that takes `rest` columns left over, 0 < rest <= lanes.
template <class T>
constexpr int tail_width(int64_t rest) {
  int width = narrow<T>;
  while (width < rest) width *= 2;
  return width;
}

// Columns that n columns occupy once their last vector is whole.
template <class T>
constexpr int64_t padded(int64_t n) {
  const int64_t rest = n % lanes<T>;
  return rest == 0 ? n : n - rest + tail_width<T>(rest);
}

template <int N>
struct Width {
  static constexpr int value = N;
};

template <class T, int N, class Body>
inline void with_tail_width(int width, Body&& body) {
  if (width == N)
    body(Width<N>{});
  else if constexpr (N > narrow<T>)
    with_tail_width<T, N / 2>(width, body);
}

// Calls body(Width<W>{}, j) for every vector of W columns starting at column j, so that all n are
// covered; the last vector may be narrower, and reaches to padded(n).
template <class T, class Body>
inline void for_each_vector(int64_t n, Body&& body) {
  int64_t j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) body(Width<lanes<T>>{}, j);
  if (j < n) with_tail_width<T, lanes<T>>(tail_width<T>(n - j), [&](auto width) { body(width, j); });
}

}  // namespace brc::BRC_ISA
