// What the rest of the kernels sees of one instruction set: the stages of a pass over a sequence.

#pragma once

#include <cstddef>
#include <cstdint>

#include "brc.h"

namespace brc {

// Batch rows first <= b < last, which one thread takes through all T steps: rows never meet.
struct Rows {
  std::int64_t first, last;
};

struct Outputs {
  void* output;
  void* last;
  void* gates;
};

// Scratch memory of a pass, in bytes: what all threads read, and what each has for itself.
struct Scratch {
  std::size_t shared, own;
};

struct ForwardPass {
  Scratch (*scratch)(const brc_layer&, Rows);
  void (*pack)(const brc_layer&, void* shared);
  void (*run)(const brc_layer&, const Outputs&, Rows, const void* shared, void* own);
};

struct BackwardPass {
  Scratch (*scratch)(const brc_layer&, Rows);
  void (*pack)(const brc_layer&, const brc_gradients&, void* shared);
  void (*run)(const brc_layer&, const brc_gradients&, Rows, const void* shared, void* own);
  // Adds the parameters' gradients of all threads, in their order, and writes them out.
  void (*reduce)(const brc_layer&, const brc_gradients&, void* const* own, int threads);
};

// For one instruction set; indices: is_double, full_memory.
struct Kernels {
  ForwardPass forward[2][2];
  BackwardPass backward[2][2];
};

}  // namespace brc
