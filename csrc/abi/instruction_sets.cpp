#include "abi/instruction_sets.h"

#ifdef BRC_X86
#include "abi/processor.h"
#endif

namespace brc {

// clang-format off
#ifdef BRC_X86
namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
#endif
namespace baseline { extern const Kernels kernels; }
// clang-format on

const InstructionSets& instruction_sets() {
#ifdef BRC_X86
  static const InstructionSets sets = [] {
    const Processor processor;
    if (processor.avx512)
      return InstructionSets{{&avx512::kernels, &avx2::kernels, &baseline::kernels},
                             "avx512,avx2,baseline"};
    if (processor.avx2)
      return InstructionSets{{&avx2::kernels, &baseline::kernels}, "avx2,baseline"};
    return InstructionSets{{&baseline::kernels}, "baseline"};
  }();
#else
  static const InstructionSets sets{{&baseline::kernels}, "baseline"};
#endif
  return sets;
}

}  // namespace brc
