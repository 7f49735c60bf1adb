// The instruction sets compiled in that this processor has.

#pragma once

#include "schedule/pass.h"

namespace brc {

struct InstructionSets {
  const Kernels* kernels[3];  // best first
  const char* names;          // the same, with commas between them
};

const InstructionSets& instruction_sets();

}  // namespace brc
