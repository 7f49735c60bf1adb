// The C interface in bad conditions: whatever floating-point environment the caller has, wherever
// memory runs out, and for sizes that no memory holds.

#include <atomic>
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <new>
#include <vector>

#include "tests/check.h"
#include "tests/problem.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Sanitizers would end the program where memory runs out.
extern "C" {
[[gnu::visibility("default")]] const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
[[gnu::visibility("default")]] const char* __tsan_default_options() {
  return "allocator_may_return_null=1";
}
}

namespace {

// Allocations that still succeed; the one after them fails, and so do later ones if `all_fail`.
std::atomic<std::int64_t> allocations_left{std::numeric_limits<std::int64_t>::max()};
std::atomic<bool> all_fail{false};

// The address that malloc gave stands before the memory: aligned_alloc is not on every platform.
void* allocate(std::size_t size, std::size_t alignment) {
  const std::int64_t left = allocations_left.fetch_sub(1);
  if (left == 0 || (left < 0 && all_fail)) throw std::bad_alloc();
  void* const given = std::malloc(size + alignment + sizeof(void*));
  if (!given) throw std::bad_alloc();
  const auto first = reinterpret_cast<std::uintptr_t>(given) + sizeof(void*);
  void** const memory =
      reinterpret_cast<void**>((first + alignment - 1) / alignment * alignment);
  memory[-1] = given;
  return memory;
}

void release(void* memory) {
  if (memory) std::free(static_cast<void**>(memory)[-1]);
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, std::size_t(alignment));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

namespace brc::tests {
namespace {

// The caller's environment: rounding, traps, flushing and sticky flags.
struct Environment {
  std::uint64_t control, status;
  bool operator==(const Environment&) const = default;
};

#if defined(__SSE2__)
constexpr bool can_flush = true;
Environment environment() { return {_mm_getcsr(), 0}; }
void flush(bool on) { _mm_setcsr(on ? _mm_getcsr() | 0x8040U : _mm_getcsr() & ~0x8040U); }
#elif defined(__aarch64__)
constexpr bool can_flush = true;
Environment environment() {
  Environment now;
  asm volatile("mrs %0, fpcr" : "=r"(now.control));
  asm volatile("mrs %0, fpsr" : "=r"(now.status));
  return now;
}
void flush(bool on) {
  const std::uint64_t bit = std::uint64_t(1) << 24, control = environment().control;
  asm volatile("msr fpcr, %0" : : "r"(on ? control | bit : control & ~bit));
}
#else
constexpr bool can_flush = false;
Environment environment() {
  return {std::uint64_t(std::fegetround()), std::uint64_t(std::fetestexcept(FE_ALL_EXCEPT))};
}
void flush(bool) {}
#endif

// One row after another, several threads with rows of their own, a team for two rows.
const Case cases[] = {{5, 3, 2, 5, 0, false, false, false, 5, 2},
                      {60, 24, 8, 40, 1, false, true, true, 30, 3},
                      {300, 2, 3, 70, 1, true, false, false, 0, 2},
                      {40, 24, 3, 40, 3, true, true, true, 40, 8}};

template <class T>
struct Results {
  std::vector<T> output;
  std::vector<std::vector<T>> gradients;
  bool operator==(const Results&) const = default;
};

template <class T>
Results<T> run(const Problem<T>& problem, int threads) {
  Results<T> results;
  results.gradients = problem.run(0, threads, results.output);
  return results;
}

template <class T>
void check_environment(Checks& checks, const Case& c) {
  const Problem<T> problem(c, 1);
  const Results<T> expected = run(problem, 4);
  for (int setting = 0; setting < 16; ++setting) {
    if (!checks.takes_next()) continue;
    std::fenv_t before;
    std::fegetenv(&before);
    std::feclearexcept(FE_ALL_EXCEPT);
    if (setting & 1) std::fesetround(FE_UPWARD);
    if (setting & 2) std::feraiseexcept(FE_DIVBYZERO | FE_INEXACT);
    flush(setting & 4);
#ifdef __GLIBC__
    if (setting & 8) feenableexcept(FE_OVERFLOW | FE_DIVBYZERO);
#endif
    const Environment own = environment();
    const Results<T> results = run(problem, 4);
    const Environment after = environment();
    std::fesetenv(&before);
    checks.that(own == after, "environment %d, T %ld: control %lx became %lx, status %lx %lx",
                setting, long(c.steps), long(own.control), long(after.control), long(own.status),
                long(after.status));
    checks.that(results == expected, "environment %d, T %ld: other results", setting,
                long(c.steps));
  }
}

// Denormal cotangents leave no gradient at all, in whichever thread.
template <class T>
void check_denormals(Checks& checks, Case c) {
  if (!can_flush) return;
  c.with_lengths = false;  // a row without data hands its gradient on as it is
  Problem<T> problem(c, 1);
  for (T& x : problem.cotangent_output) x = std::numeric_limits<T>::denorm_min() * 1000;
  for (T& x : problem.cotangent_last) x = std::numeric_limits<T>::denorm_min() * 1000;
  const Results<T> results = run(problem, 4);
  for (std::size_t k = 0; k < results.gradients.size(); ++k)
    for (const T x : results.gradients[k])
      checks.that(x == 0, "T %ld: gradient %zu of a denormal cotangent is %g", long(c.steps), k,
                  double(x));
}

// Each allocation fails once, alone or with all that follow: the call says so, or does without.
void check_allocations(Checks& checks, const Case& c) {
  const Problem<float> problem(c, 1);
  const Results<float> expected = run(problem, 4);
  const brc_layer layer = problem.describe(0, 4);
  for (const bool all : {false, true})
    for (int pass = 0; pass < 2; ++pass) {
      int refused = 0;
      for (std::int64_t n = 0;; n += checks.every) {
        Results<float> results = expected;
        std::vector<float> last = problem.new_last(), saved = problem.new_saved();
        problem.forward(layer, results.output, last, saved);
        const brc_gradients gradients =
            problem.describe_gradients(results.output, saved, results.gradients);
        const Environment own = environment();
        all_fail = all;
        allocations_left = n;
        const int status =
            pass ? brc_backward(&layer, &gradients)
                 : problem.forward(layer, results.output, last, saved);
        const bool was_enough = allocations_left >= 0;
        allocations_left = std::numeric_limits<std::int64_t>::max();
        checks.that(own == environment(), "allocation %ld fails: the environment changed", long(n));
        if (status == 0)
          checks.that(results == expected, "allocation %ld fails: other results", long(n));
        else
          checks.that(status == 1, "allocation %ld fails: status %d", long(n), status);
        refused += status;
        if (was_enough) break;
      }
      checks.that(refused > 0, "pass %d, T %ld: it needs no memory", pass, long(c.steps));
    }
}

// Sizes that no memory holds, or no number of bytes describes, are lack of memory.
void check_sizes(Checks& checks) {
  const std::int64_t huge = std::int64_t(1) << 50;
  const std::int64_t sizes[][4] = {  // T, B, I, H
      {1, 1, 1, huge}, {1, 1, huge, 1}, {1, huge, 1, 1}, {1, huge, huge, 1},
      {1, 1, huge, huge}, {1, huge, 1, huge}, {huge, huge, huge, 1}};
  for (const auto& [steps, batch, input, hidden] : sizes)
    for (int options = 0; options < 2 * int(std::size(cells)); ++options) {
      brc_layer layer{};
      layer.steps = steps, layer.batch = batch, layer.input_size = input;
      layer.hidden_size = hidden, layer.saved_steps = steps, layer.threads = 3;
      layer.cell = options >> 1, layer.is_double = options & 1;
      const brc_gradients gradients{};
      const Environment own = environment();
      const int forward = brc_forward(&layer, 1, nullptr, nullptr, nullptr);
      const int backward = brc_backward(&layer, &gradients);
      checks.that(forward == 1 && backward == 1 && own == environment(),
                  "T %lx B %lx I %lx H %lx, options %d: status %d and %d", long(steps), long(batch),
                  long(input), long(hidden), options, forward, backward);
    }
}

}  // namespace

void test_abi(Checks& checks) {
  for (const Case& c : cases) {
    check_environment<float>(checks, c);
    check_environment<double>(checks, c);
    check_denormals<float>(checks, c);
    check_denormals<double>(checks, c);
    check_allocations(checks, c);
  }
  check_sizes(checks);
}

}  // namespace brc::tests
