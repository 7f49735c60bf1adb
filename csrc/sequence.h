// What both passes share: sizes, scratch memory, and copies of a few steps of the tensors into dense
// buffers. Strides, direction and row lengths are dealt with here and in the passes' loops over
// rows; the arithmetic sees dense rows, padded to whole vectors.

#pragma once

#include <new>

#include "pass.h"
#include "simd.h"

namespace brc::BRC_ISA {

// Lays buffers out one after the other; without memory it only adds up their size.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  // A buffer of that many rows by columns by whatever else; std::bad_alloc where the size of all
  // buffers so far is no number of 64 bits.
  template <class T, class... Sizes>
  T* take(Sizes... sizes) {
    int64_t bytes = sizeof(T), end = 0;
    const bool is_too_large = (__builtin_mul_overflow(bytes, int64_t(sizes), &bytes) || ...) ||
                              __builtin_add_overflow(bytes, used_ + 63, &end);
    if (is_too_large) throw std::bad_alloc();
    T* const buffer = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ = end / 64 * 64;
    return buffer;
  }
  size_t used() const { return size_t(used_); }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// Sizes of a pass over some batch rows. A position counts steps in the order they are taken.
template <class T>
struct Plan {
  int64_t rows;       // n, batch rows
  int64_t input;      // I
  int64_t hidden;     // H
  int64_t ld_input;   // row of inputs, >= I
  int64_t ld_state;   // P, row of states and columns of one gate: those from H on stay zero
  int64_t ld_gates;   // row of three gates, >= 3P
  int64_t positions;  // S, positions handled at a time, so that their buffers stay in cache

  Plan(const brc_layer& layer, Range block, int64_t longest_chunk)
      : rows(block.last - block.first),
        input(layer.input_size),
        hidden(layer.hidden_size),
        ld_input(padded<T>(input)),
        ld_state(padded<T>(hidden)),
        ld_gates(padded<T>(3 * ld_state)) {
    // Enough rows that a product amortises its ends, few enough for a core's second-level cache.
    constexpr int64_t rows_at_a_time = 256;
    const int64_t steps = rows ? (rows_at_a_time + rows - 1) / rows : 1;
    positions = steps < longest_chunk ? steps : longest_chunk;
  }
  Plan(const brc_layer& layer, Range block) : Plan(layer, block, layer.steps) {}
};

// Where the steps and rows of one pass are in the tensors.
struct Sequence {
  const brc_layer& layer;
  Range rows;

  int64_t time(int64_t position) const {
    return layer.reverse ? layer.steps - 1 - position : position;
  }
  bool keeps_gates(int64_t position) const { return position >= layer.steps - layer.kept_steps; }
  // The step of a position among those whose gates are kept.
  int64_t kept_time(int64_t position) const {
    return layer.reverse ? time(position) : time(position) - (layer.steps - layer.kept_steps);
  }
  bool is_data(int64_t position, int64_t row) const {
    return !layer.lengths || time(position) < layer.lengths[rows.first + row];
  }
  // Whether the rows of one position are one block, in the tensor as in a buffer of that width.
  bool is_dense(const int64_t* strides, int64_t size, int64_t width) const {
    const bool is_empty = size == 0 || rows.first == rows.last;
    return !layer.lengths && !is_empty && strides[2] == 1 && strides[1] == size && width == size;
  }
};

// Copies `count` numbers that lie `stride` apart to a dense row of `width` columns, zero-filled.
template <class T>
inline void copy_row(int64_t count, const T* from, int64_t stride, T* to, int64_t width) {
  if (count > 0 && stride == 1)
    std::memcpy(to, from, size_t(count) * sizeof(T));
  else
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  for (int64_t i = count; i < width; ++i) to[i] = 0;
}

// Positions first <= p < first + count of a (T, B, size) tensor into rows of `width`; zero where a
// row has no data, so that whatever stands in padding, NaN included, has no effect.
template <class T>
void gather(const Sequence& sequence, const T* from, const int64_t* strides, int64_t size,
            int64_t first, int64_t count, T* to, int64_t width) {
  const int64_t rows = sequence.rows.last - sequence.rows.first;
  const bool dense = sequence.is_dense(strides, size, width);
  for (int64_t p = first; p < first + count; ++p) {
    const T* row = from + sequence.time(p) * strides[0] + sequence.rows.first * strides[1];
    if (dense) {
      std::memcpy(to, row, size_t(rows * size) * sizeof(T));
      to += rows * size;
      continue;
    }
    for (int64_t r = 0; r < rows; ++r, to += width, row += strides[1])
      copy_row(sequence.is_data(p, r) ? size : 0, row, strides[2], to, width);
  }
}

// The reverse: rows of `width` to a (T, B, size) tensor, zero where a row has no data.
template <class T>
void scatter(const Sequence& sequence, const T* from, int64_t width, int64_t size, int64_t first,
             int64_t count, T* to, const int64_t* strides) {
  const int64_t rows = sequence.rows.last - sequence.rows.first;
  const bool dense = sequence.is_dense(strides, size, width);
  for (int64_t p = first; p < first + count; ++p) {
    T* row = to + sequence.time(p) * strides[0] + sequence.rows.first * strides[1];
    if (dense) {
      std::memcpy(row, from, size_t(rows * size) * sizeof(T));
      from += rows * size;
      continue;
    }
    for (int64_t r = 0; r < rows; ++r, from += width, row += strides[1]) {
      const bool is_data = sequence.is_data(p, r);
      if (is_data && strides[2] == 1)
        std::memcpy(row, from, size_t(size) * sizeof(T));
      else
        for (int64_t i = 0; i < size; ++i) row[i * strides[2]] = is_data ? from[i] : T(0);
    }
  }
}

}  // namespace brc::BRC_ISA
