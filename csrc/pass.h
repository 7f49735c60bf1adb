// What the rest of the kernels sees of one instruction set: the stages of a pass over a sequence.

#pragma once

#include <cstddef>
#include <cstdint>

#include "brc.h"

namespace brc {

// first <= i < last.
struct Range {
  std::int64_t first, last;
};

// The batch rows and hidden units that one thread takes through all T steps. Rows never meet, and
// neither do the units of a BRC; those of an nBRC do after each step.
struct Block {
  Range rows, units;
};

// The threads that have the same rows and different units.
class Team;

// Waits until all threads of the team are here; what they wrote before can be read after.
void meet(Team& team);

struct Outputs {
  void* output;
  void* last;
  void* gates;
};

// Scratch memory of a pass over a block, in bytes: what all threads with its units read, what its
// team shares, and what its thread has for itself.
struct Scratch {
  std::size_t weights, team, own;
};

struct ForwardPass {
  Scratch (*scratch)(const brc_layer&, const Block&);
  void (*pack)(const brc_layer&, const Block&, void* weights);
  // No team: the thread has its rows' units all, or need not wait for the others.
  void (*run)(const brc_layer&, const Outputs&, const Block&, const void* weights, void* shared,
              void* own, Team*);
};

// A block of the backward pass has all units.
struct BackwardPass {
  Scratch (*scratch)(const brc_layer&, const Block&);
  void (*pack)(const brc_layer&, const Block&, void* weights);
  void (*run)(const brc_layer&, const brc_gradients&, const Block&, const void* weights, void* own);
  // Adds the parameters' gradients of all threads, in their order, and writes them out.
  void (*reduce)(const brc_layer&, const brc_gradients&, void* const* own, int threads);
};

// For one instruction set; indices: is_double, full_memory.
struct Kernels {
  ForwardPass forward[2][2];
  BackwardPass backward[2][2];
};

}  // namespace brc
