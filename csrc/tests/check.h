// How a test says what it found.

#pragma once

namespace brc::tests {

struct Checks {
  int passed = 0, failed = 0;
  int every = 1;  // of many cases one in so many is run: an emulated processor is slow
  int cases = 0;

  // Whether the next of many cases is run.
  bool takes_next() { return cases++ % every == 0; }

  // Counts one check; says what failed, in the words and numbers given.
  [[gnu::format(printf, 3, 4)]] bool that(bool holds, const char* format, ...);
};

int instruction_set_count();

// One function for each room.
void test_abi(Checks&);
void test_schedule(Checks&);
void test_simd(Checks&);
void test_cells(Checks&);
void test_passes(Checks&);

}  // namespace brc::tests
