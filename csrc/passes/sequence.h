// Copies of a few steps of the tensors into dense buffers, and back.
//
// Strides, direction and row lengths are dealt with here and in the passes' loops over
// rows; the arithmetic sees dense rows, padded to whole vectors.

#pragma once

#include "schedule/pass.h"
#include "simd/vector.h"

namespace brc::BRC_ISA {

// Where the steps and rows of one pass are in the tensors.
struct Sequence {
  const brc_layer& layer;
  Range rows;

  int64_t time(int64_t position) const {
    return layer.reverse ? layer.steps - 1 - position : position;
  }
  bool is_saved(int64_t position) const { return position >= layer.steps - layer.saved_steps; }
  // The first number of a position among what is saved, `width` numbers a row and step.
  int64_t saved_offset(int64_t position, int64_t width) const {
    const int64_t skipped = layer.reverse ? 0 : layer.steps - layer.saved_steps;
    return ((time(position) - skipped) * layer.batch + rows.first) * width;
  }
  bool is_data(int64_t position, int64_t row) const { return has_data(time(position), row); }
  // Whether a row starts a position from its reset states: a segment begins there, or in reverse
  // behind it.
  bool begins_anew(int64_t position, int64_t row) const {
    if (!layer.resets) return false;
    const int64_t begin = time(position) + (layer.reverse ? 1 : 0);
    return begin < layer.steps && has_data(begin, row) &&
           layer.resets[begin * layer.resets_strides[0] +
                        (rows.first + row) * layer.resets_strides[1]];
  }
  // Whether the rows of one position are one block, in the tensor as in a buffer of that width.
  bool is_dense(const int64_t* strides, int64_t size, int64_t width) const {
    const bool is_empty = size == 0 || rows.first == rows.last;
    return !layer.lengths && !is_empty && strides[2] == 1 && strides[1] == size && width == size;
  }

 private:
  bool has_data(int64_t time, int64_t row) const {
    return !layer.lengths || time < layer.lengths[rows.first + row];
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

// A row's states out of tensors (B, H), NULL for zero, side by side in `width` columns each.
template <class T>
void copy_states(const Sequence& sequence, const void* const* from, int states, int64_t row, T* to,
                 int64_t width) {
  const int64_t H = sequence.layer.hidden_size, first = (sequence.rows.first + row) * H;
  for (int s = 0; s < states; ++s)
    if (from[s])
      copy_row(H, static_cast<const T*>(from[s]) + first, 1, to + s * width, width);
    else
      std::memset(to + s * width, 0, size_t(width) * sizeof(T));
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
