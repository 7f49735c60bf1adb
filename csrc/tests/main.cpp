// Runs the tests of the rooms that are named, or of all of them: brc_tests [--every N] [ROOM ...]

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "abi/instruction_sets.h"
#include "tests/arithmetic.h"
#include "tests/check.h"

namespace brc {

// clang-format off
#ifdef BRC_X86
namespace avx512 { extern const tests::AllArithmetic arithmetic; }
namespace avx2 { extern const tests::AllArithmetic arithmetic; }
#endif
namespace baseline { extern const tests::AllArithmetic arithmetic; }
// clang-format on

namespace tests {

bool Checks::that(bool holds, const char* format, ...) {
  ++(holds ? passed : failed);
  if (holds) return true;
  std::va_list arguments;
  va_start(arguments, format);
  std::printf("failed: ");
  std::vprintf(format, arguments);
  std::printf("\n");
  va_end(arguments);
  return false;
}

int instruction_set_count() {
  int count = 1;
  for (const char* c = instruction_sets().names; *c; ++c) count += *c == ',';
  return count;
}

const AllArithmetic& arithmetic(int instruction_set) {
#ifdef BRC_X86
  const AllArithmetic* const all[] = {&avx512::arithmetic, &avx2::arithmetic,
                                      &baseline::arithmetic};
  return *all[3 - instruction_set_count() + instruction_set];
#else
  return (void)instruction_set, baseline::arithmetic;
#endif
}

namespace {

constexpr struct {
  const char* name;
  void (*run)(Checks&);
} rooms[] = {{"abi", test_abi},
             {"schedule", test_schedule},
             {"simd", test_simd},
             {"cells", test_cells},
             {"passes", test_passes}};

bool run(const char* name, Checks& checks) {
  bool found = false;
  for (const auto& room : rooms)
    if (!name || !std::strcmp(name, room.name)) {
      const Checks before = checks;
      room.run(checks);
      std::printf("%s: %d checks passed, %d failed\n", room.name, checks.passed - before.passed,
                  checks.failed - before.failed);
      std::fflush(stdout);  // whatever ends the program in the next room
      found = true;
    }
  if (!found) std::printf("no tests of the name %s\n", name);
  return found;
}

}  // namespace
}  // namespace tests
}  // namespace brc

int main(int count, char** arguments) {
  brc::tests::Checks checks;
  int first = 1;
  if (count > 2 && !std::strcmp(arguments[1], "--every")) {
    checks.every = std::atoi(arguments[2]);
    if (checks.every < 1) return std::printf("--every: expected a count, got %s\n", arguments[2]), 1;
    first = 3;
  }
  bool found = count > first || brc::tests::run(nullptr, checks);
  for (int i = first; i < count; ++i) found = brc::tests::run(arguments[i], checks) && found;
  return !found || checks.failed || !checks.passed;
}
