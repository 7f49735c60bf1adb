// How a test says what it found.

#pragma once

#include <cstdarg>
#include <cstdio>

namespace brc::tests {

struct Checks {
  int passed = 0, failed = 0;

  // Counts one check; says what failed, in the words and numbers given.
  [[gnu::format(printf, 3, 4)]] bool that(bool holds, const char* format, ...) {
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
};

}  // namespace brc::tests
