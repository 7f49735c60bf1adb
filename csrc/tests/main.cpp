// Runs the tests of the rooms that are named, or of all of them.

#include <cstdio>
#include <cstring>

#include "check.h"

namespace brc::tests {

void test_abi(Checks&);
void test_passes(Checks&);

namespace {

constexpr struct {
  const char* name;
  void (*run)(Checks&);
} rooms[] = {{"abi", test_abi}, {"passes", test_passes}};

bool run(const char* name, Checks& checks) {
  bool found = false;
  for (const auto& room : rooms)
    if (!name || !std::strcmp(name, room.name)) {
      const Checks before = checks;
      room.run(checks);
      std::printf("%s: %d checks passed, %d failed\n", room.name, checks.passed - before.passed,
                  checks.failed - before.failed);
      found = true;
    }
  if (!found) std::printf("no tests of the name %s\n", name);
  return found;
}

}  // namespace
}  // namespace brc::tests

int main(int count, char** names) {
  brc::tests::Checks checks;
  bool found = count > 1 || brc::tests::run(nullptr, checks);
  for (int i = 1; i < count; ++i) found = brc::tests::run(names[i], checks) && found;
  return !found || checks.failed || !checks.passed;
}
