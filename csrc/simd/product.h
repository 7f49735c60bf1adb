// Matrix products that keep a tile of the result in registers.
//
// Symbols: a product is M x K times K x N. The left factor is read one number at a time, the right
// one in panels: up to three vectors of columns that one tile covers.

#pragma once

#include "simd/vector.h"

namespace brc::BRC_ISA {

// A tile of rows x panel_vectors accumulators, three vectors of the right factor and one broadcast
// number fill the registers: 32 with AVX-512, 16 elsewhere.
constexpr int panel_vectors = 3;
constexpr int tile_rows = BRC_VECTOR_BYTES >= 64 ? 9 : 4;

// Calls body(Width<W>{}, Width<V>{}, j) for every panel of V vectors of W columns, from column j.
template <class T, class Body>
inline void for_each_panel(int64_t n, Body&& body) {
  constexpr int wide = panel_vectors * lanes<T>;
  int64_t j = 0;
  for (; j + wide <= n; j += wide) body(Width<lanes<T>>{}, Width<panel_vectors>{}, j);
  if (n - j >= 2 * lanes<T>) {
    body(Width<lanes<T>>{}, Width<2>{}, j);
    j += 2 * lanes<T>;
  } else if (n - j >= lanes<T>) {
    body(Width<lanes<T>>{}, Width<1>{}, j);
    j += lanes<T>;
  }
  if (j < n)
    with_tail_width<T, lanes<T>>(tail_width<T>(n - j),
                                 [&](auto width) { body(width, Width<1>{}, j); });
}

// How the factors of a product lie in memory.
enum class Left { rows, columns };      // element (m, k) at a[m * lda + k], or at a[k * lda + m]
enum class Right { packed, row_major };  // panel by panel, or element (k, n) at b[k * ldb + n]

// One tile: c[m][n] = init[m][n] + sum over k of a[m][k] b[k][n], M x (vectors * width).
// The sum starts at zero and meets `init` last, which bounds the rounding of long accumulations.
template <class T, int width, int vectors, int M, Left left>
void tile(int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb, const T* init,
          int64_t ld_init, T* c, int64_t ldc) {
  // The result is then a gradient of weights: if large, it is far away when it is met again.
  if (left == Left::columns)
#pragma GCC unroll 9
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(c + m * ldc + v * width, 1);
  Vector<T, width> sum[M][vectors] = {};
  for (int64_t k = 0; k < K; ++k, b += ldb) {
    Vector<T, width> right[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) right[v] = load<width>(b + v * width);
#pragma GCC unroll 9
    for (int m = 0; m < M; ++m) {
      const T x = left == Left::rows ? a[m * lda + k] : a[k * lda + m];
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sum[m][v] += x * right[v];
    }
  }
#pragma GCC unroll 9
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v)
      store<width>(c + m * ldc + v * width,
                   init ? load<width>(init + m * ld_init + v * width) + sum[m][v] : sum[m][v]);
}

template <class T>
using Tile = void (*)(int64_t, const T*, int64_t, const T*, int64_t, const T*, int64_t, T*,
                      int64_t);

template <class T, int width, int vectors, Left left>
struct Tiles {  // by_rows[m - 1] has m rows
  static constexpr struct Table {
    Tile<T> by_rows[tile_rows];
    constexpr Table() : by_rows{} { fill<tile_rows>(); }
    template <int M>
    constexpr void fill() {
      by_rows[M - 1] = tile<T, width, vectors, M, left>;
      if constexpr (M > 1) fill<M - 1>();
    }
  } table{};
};

// c = init + a b. `c` and `init` may be the same; ld_init = 0 repeats one row; no init is zero.
// Columns of b, init and c up to padded(N) exist. The order of additions depends on K alone, never
// on M: a row's result is the same whichever rows are computed with it.
template <Left left, Right right, class T>
void product(int64_t M, int64_t N, int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb,
             const T* init, int64_t ld_init, T* c, int64_t ldc) {
  if (M == 0) return;
  const int64_t tiles = (M + tile_rows - 1) / tile_rows;
  const int64_t rows = M / tiles, taller = M % tiles;  // that many tiles have one row more
  for_each_panel<T>(N, [&](auto width, auto vectors, int64_t j) {
    constexpr auto& table = Tiles<T, width.value, vectors.value, left>::table;
    const T* panel = right == Right::packed ? b + j * K : b + j;
    const int64_t step = right == Right::packed ? width.value * vectors.value : ldb;
    for (int64_t i = 0, m = 0; i < tiles; ++i) {
      const int64_t height = rows + (i < taller);
      table.by_rows[height - 1](K, left == Left::rows ? a + m * lda : a + m, lda, panel, step,
                                init ? init + m * ld_init + j : nullptr, ld_init,
                                c + m * ldc + j, ldc);
      m += height;
    }
  });
}

}  // namespace brc::BRC_ISA
