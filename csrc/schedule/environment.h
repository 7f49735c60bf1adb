// The floating-point environment that the kernels compute in.
//
// Gradients that fade over a long sequence end in denormal numbers, with which many processors
// compute a hundred times slower. Nothing of a result depends on how the caller has set its own
// thread, and nothing of that setting is lost.

#pragma once

#include <atomic>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace brc {

// While it lives its thread rounds to nearest, traps nothing, and takes denormal numbers for zero,
// read or written. Then the thread has its rounding, its traps and its sticky flags back. Arithmetic
// in the same function may be moved past either end: what counts is called through a pointer.
class FloatingPointEnvironment {
 public:
  FloatingPointEnvironment() : before_(read()) { write(of_kernels()); }
  ~FloatingPointEnvironment() { write(before_); }
  FloatingPointEnvironment(const FloatingPointEnvironment&) = delete;
  FloatingPointEnvironment& operator=(const FloatingPointEnvironment&) = delete;

 private:
#if defined(__SSE2__)
  using Registers = unsigned;  // MXCSR
  static Registers of_kernels() {
    constexpr Registers traps_nothing = 0x1F80, flush_results = 0x8000, flush_operands = 0x0040;
    return traps_nothing | flush_results | flush_operands;
  }
  static Registers read() { return _mm_getcsr(); }
  static void write(Registers registers) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    _mm_setcsr(registers);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
#elif defined(__aarch64__)
  struct Registers {
    std::uint64_t control, status;  // FPCR, FPSR
  };
  static Registers of_kernels() {
    constexpr std::uint64_t flush = std::uint64_t(1) << 24;
    return {flush, 0};
  }
  static Registers read() {
    Registers registers;
    asm volatile("mrs %0, fpcr" : "=r"(registers.control) : : "memory");
    asm volatile("mrs %0, fpsr" : "=r"(registers.status) : : "memory");
    return registers;
  }
  static void write(Registers registers) {
    asm volatile("msr fpcr, %0" : : "r"(registers.control) : "memory");
    asm volatile("msr fpsr, %0" : : "r"(registers.status) : "memory");
  }
#else  // there is no setting that we know of
  struct Registers {};
  static Registers of_kernels() { return {}; }
  static Registers read() { return {}; }
  static void write(Registers) {}
#endif

  const Registers before_;
};

}  // namespace brc
