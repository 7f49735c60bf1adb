// What an x86 processor can do, and its operating system saves.
//
// Both are asked here: __builtin_cpu_supports says no to everything in what Zig links.

#pragma once

#include <cpuid.h>

namespace brc {

struct Processor {
  bool avx2 = false, avx512 = false;  // with FMA; with the parts DQ, BW and VL

  Processor() {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return;
    const bool fma = ecx & bit_FMA;
    unsigned saved, high;  // the registers saved when threads change
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    constexpr unsigned ymm = 0x06, zmm = 0xe6;
    constexpr unsigned parts = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    avx2 = (saved & ymm) == ymm && fma && (ebx & bit_AVX2);
    avx512 = avx2 && (saved & zmm) == zmm && (ebx & parts) == parts;
  }
};

}  // namespace brc
