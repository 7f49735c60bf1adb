// The kernels for one instruction set; compiled once for each, with BRC_ISA its name and
// BRC_VECTOR_BYTES its widest vector.

#include "backward.h"
#include "forward.h"

namespace brc::BRC_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    {{Forward<float, false>::stages, Forward<float, true>::stages},
     {Forward<double, false>::stages, Forward<double, true>::stages}},
    {{Backward<float, false>::stages, Backward<float, true>::stages},
     {Backward<double, false>::stages, Backward<double, true>::stages}},
};

}  // namespace brc::BRC_ISA
