// How many threads a pass takes, what each of them does, and their start and end.

#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "schedule/environment.h"
#include "schedule/pass.h"

namespace brc {

// Multiply-adds that a layer takes, or what takes as long: those of its input's part, and those of
// its steps, which come one after the other.
struct Work {
  double projection, steps;

  Work(const CellShape& cell, const brc_layer& layer) {
    const double units = double(layer.steps) * double(layer.batch) * double(layer.hidden_size);
    const double memory = cell.memory_is_matrix ? double(layer.hidden_size) : 0.0;
    projection = double(cell.input_gates) * units * double(layer.input_size);
    steps = units * (cell.step_cost + double(cell.memory_gates) * memory);
  }
};

// Threads that are worth starting: one costs some 20 microseconds, so each gets at least ten times
// that, at about 10 multiply-adds a nanosecond.
inline int useful_threads(const brc_layer& layer, double work) {
  constexpr double least = 2e6;
  return int(std::clamp(work / least, 1.0, std::max(double(layer.threads), 1.0)));
}

// Calls body(thread) for all threads, the last on the caller's. They are started afresh each time:
// with no pool there is nothing that a fork could leave behind, or that callers would have to
// share. A thread that cannot be had, for lack of memory or by a limit, runs here. What has been
// started is always waited for: a body throws nothing.
template <class Body>
void in_parallel(int threads, const Body& body) {
  static_assert(noexcept(body(0)));
  std::vector<std::thread> started;
  started.reserve(std::size_t(threads));
  const auto run = [&body](int i) noexcept {
    const FloatingPointEnvironment environment;
    body(i);
  };
  int next = 0;
  try {
    for (; next < threads - 1; ++next) started.emplace_back(run, next);
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {
  }
  for (; next < threads; ++next) body(next);
  for (std::thread& thread : started) thread.join();
}

// From n * i / parts on, without a product that could overflow.
inline Range part(std::int64_t n, int parts, int i) {
  const auto begin = [=](int i) { return n / parts * i + n % parts * i / parts; };
  return {begin(i), begin(i + 1)};
}

// How a pass is shared out: rows over parts, and each part's rows to a team of threads.
struct Division {
  int parts, team;

  Range rows(const brc_layer& layer, int i) const { return part(layer.batch, parts, i); }
};

// A layer's states come one after the other, so more threads than the work is longer than the
// longest of these find nothing to do.
inline Division divide(const CellShape& cell, const brc_layer* layers, int count) {
  double work = 0, longest = 1;
  for (int l = 0; l < count; ++l) {
    const Work of_layer(cell, layers[l]);
    work += of_layer.projection + of_layer.steps;
    longest = std::max(longest, of_layer.steps);
  }
  const int threads = useful_threads(layers[0], work);
  const int parts = int(std::clamp<std::int64_t>(layers[0].batch, 1, threads));
  return {parts, int(std::clamp(work / longest, 1.0, double(threads / parts)))};
}

// Steps of a chunk: a team needs several chunks at once, all others take what the cache holds.
inline std::int64_t longest_chunk(const brc_layer& layer, const Division& division) {
  if (division.team == 1) return layer.steps;
  constexpr std::int64_t rows_at_a_time = 64;
  const std::int64_t rows = std::max<std::int64_t>(layer.batch / division.parts, 1);
  return std::clamp<std::int64_t>(layer.steps / 8, 1, (rows_at_a_time + rows - 1) / rows);
}

}  // namespace brc
