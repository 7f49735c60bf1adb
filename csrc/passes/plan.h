// The sizes of a pass, and its buffers in scratch memory.

#pragma once

#include <new>

#include "schedule/pass.h"
#include "simd/vector.h"

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
template <class T, class Cell>
struct Plan {
  int64_t rows;          // n, batch rows
  int64_t input;         // I
  int64_t hidden;        // H
  int64_t width;         // P, columns of one gate or state: those from H on pad the last vector
  int64_t ld_input;      // row of inputs, >= I
  int64_t ld_states;     // row of all states
  int64_t ld_kernel;     // row of the gates that have a kernel
  int64_t ld_memory;     // row of the gates that have a memory
  int64_t ld_arguments;  // row of all gates, such that either of the former fits where it begins
  int64_t positions;     // S, positions handled at a time, so that their buffers stay in cache

  Plan(const brc_layer& layer, Range block, int64_t longest_chunk)
      : rows(block.last - block.first),
        input(layer.input_size),
        hidden(layer.hidden_size),
        width(padded<T>(hidden)),
        ld_input(spread(padded<T>(input))),
        ld_states(spread(Cell::shape.states * width)),
        ld_kernel(padded<T>(Cell::shape.input_gates * width)),
        ld_memory(padded<T>(Cell::shape.memory_gates * width)),
        ld_arguments(padded<T>(Cell::shape.gates * width)) {
    const int64_t end = Cell::shape.first_memory_gate * width + ld_memory;
    if (ld_arguments < end) ld_arguments = end;
    if (ld_arguments < ld_kernel) ld_arguments = ld_kernel;
    ld_arguments = spread(ld_arguments);
    // Enough rows that a product amortises its ends, few enough for a core's second-level cache.
    constexpr int64_t rows_at_a_time = 256;
    const int64_t steps = rows ? (rows_at_a_time + rows - 1) / rows : 1;
    positions = steps < longest_chunk ? steps : longest_chunk;
  }
  Plan(const brc_layer& layer, Range block) : Plan(layer, block, layer.steps) {}

 private:
  // Rows that lie a large power of two apart share few places in a first-level cache: a line more.
  static int64_t spread(int64_t columns) {
    constexpr int64_t line = 64 / sizeof(T), conflict = 512 / sizeof(T);
    return columns > 0 && columns % conflict == 0 ? columns + line : columns;
  }
};

}  // namespace brc::BRC_ISA
