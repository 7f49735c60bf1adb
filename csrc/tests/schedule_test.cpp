// The division of work, threads, scratch memory, and pipelines whose stages only write down when
// they ran.

#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "schedule/memory.h"
#include "schedule/pipeline.h"
#include "schedule/threads.h"
#include "tests/check.h"

namespace brc::tests {
namespace {

constexpr CellShape shape{.gates = 3,
                          .input_gates = 3,
                          .kernel_place = {0, 1, 2},
                          .first_memory_gate = 0,
                          .memory_gates = 2,
                          .memory_is_matrix = true,
                          .states = 1,
                          .saved = 2,
                          .step_cost = 50};

brc_layer layer_of(std::int64_t steps, std::int64_t batch, std::int64_t input, std::int64_t hidden,
                   int threads) {
  brc_layer layer{};
  layer.steps = steps, layer.batch = batch, layer.input_size = input, layer.hidden_size = hidden;
  layer.threads = threads;
  return layer;
}

void check_parts(Checks& checks) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t n : {std::int64_t(0), std::int64_t(1), std::int64_t(7), std::int64_t(100),
                               most})
    for (const int parts : {1, 2, 3, 7, 64}) {
      std::int64_t next = 0;
      for (int i = 0; i < parts; ++i) {
        const Range range = part(n, parts, i);
        const std::int64_t size = range.last - range.first;
        const std::int64_t least = n / parts, most_of_part = least + (n % parts != 0);
        checks.that(range.first == next && size >= least && size <= most_of_part,
                    "part %d of %d of %lld: %lld to %lld", i, parts,
                    static_cast<long long>(n), static_cast<long long>(range.first),
                    static_cast<long long>(range.last));
        next = range.last;
      }
      checks.that(next == n, "%d parts of %lld end at %lld", parts, static_cast<long long>(n),
                  static_cast<long long>(next));
    }
}

void check_division(Checks& checks) {
  const struct {
    std::int64_t steps, batch, hidden;
    int layers, threads, parts, team;
  } cases[] = {
      {1, 1, 100, 2, 8, 1, 1},        // too small for two threads
      {300, 100, 100, 2, 8, 8, 1},    // rows for all
      {300, 3, 100, 1, 8, 3, 2},      // one layer: one member projects, one steps
      {1000, 1, 128, 2, 8, 1, 4},     // one row: a team for its layers and stages
      {1000, 1, 128, 9, 8, 1, 8},
      {300, 100, 100, 2, 1, 1, 1},
      {300, 0, 100, 2, 8, 1, 1},      // no rows
  };
  for (const auto& c : cases) {
    const std::vector<brc_layer> layers(std::size_t(c.layers),
                                        layer_of(c.steps, c.batch, c.hidden, c.hidden, c.threads));
    const Division division = divide(shape, layers.data(), c.layers);
    checks.that(division.parts == c.parts && division.team == c.team,
                "T %ld B %ld H %ld, %d layers, %d threads: %d parts with teams of %d, not %d of %d",
                long(c.steps), long(c.batch), long(c.hidden), c.layers, c.threads, division.parts,
                division.team, c.parts, c.team);
    const std::int64_t longest = longest_chunk(layers[0], division);
    checks.that(longest >= 1 && longest <= c.steps && (division.team > 1) == (longest < c.steps),
                "T %ld, teams of %d: chunks of %ld", long(c.steps), division.team, long(longest));
  }
}

void check_threads(Checks& checks) {
  for (const int threads : {1, 2, 5, 16}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(threads));
    in_parallel(threads, [&](int i) noexcept { ++calls[std::size_t(i)]; });
    for (int i = 0; i < threads; ++i)
      checks.that(calls[std::size_t(i)] == 1, "thread %d of %d was called %d times", i, threads,
                  calls[std::size_t(i)].load());
  }
}

void check_memory(Checks& checks) {
  for (const std::size_t bytes : {std::size_t(1), std::size_t(100'000), std::size_t(5'000'000)}) {
    Workspace workspace;
    const std::size_t first = workspace.add(bytes), second = workspace.add(bytes);
    workspace.allocate();
    const auto begin = reinterpret_cast<std::uintptr_t>(workspace.piece(first));
    const auto next = reinterpret_cast<std::uintptr_t>(workspace.piece(second));
    checks.that(begin % 64 == 0 && next % 64 == 0 && next - begin >= bytes,
                "pieces of %zu bytes at %zx and %zx", bytes, std::size_t(begin), std::size_t(next));
    static_cast<char*>(workspace.piece(second))[bytes - 1] = 1;  // a sanitizer sees a wrong size
  }
  bool refused = false;
  try {
    Workspace workspace;
    workspace.add(std::numeric_limits<std::size_t>::max() / 2);
    workspace.add(std::numeric_limits<std::size_t>::max() / 2 + 2);
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  checks.that(refused, "pieces that no number of bytes holds were added up");
}

// What the stages of the pipelines under test have done: each looks here whether what it needs has
// ended, and writes down its own end.
struct Log {
  std::mutex mutex;
  std::vector<const void*> layers;               // the states' buffers tell the layers apart
  std::vector<std::int64_t> projected, stepped;  // chunks that have ended, by layer
  std::vector<bool> is_stepping;
  std::int64_t buffers = 0;
  int wrong = 0, done = 0;
} log;

std::size_t layer_number(const LayerRows& rows) {
  for (std::size_t l = 0; l < log.layers.size(); ++l)
    if (log.layers[l] == rows.states[0]) return l;
  return 0;
}

void run_stage(const LayerRows& rows, std::int64_t chunk, bool is_step) noexcept {
  const std::size_t l = layer_number(rows), top = log.layers.size() - 1;
  auto& own = is_step ? log.stepped : log.projected;
  {
    const std::lock_guard guard(log.mutex);
    bool may = own[l] == chunk || !is_step;  // chunks of states come one after the other
    if (is_step)
      may = may && !log.is_stepping[l] && log.projected[l] > chunk &&
            (l == top || log.projected[l + 1] > chunk - log.buffers);
    else
      may = may && (l == 0 || log.stepped[l - 1] > chunk) &&
            log.stepped[l] > chunk - log.buffers;
    if (is_step) log.is_stepping[l] = true;
    log.wrong += !may;
  }
  std::this_thread::yield();
  const std::lock_guard guard(log.mutex);
  if (is_step) log.is_stepping[l] = false;
  own[l] = own[l] > chunk + 1 ? own[l] : chunk + 1;
  ++log.done;
}

void project(const LayerRows& rows, std::int64_t chunk) noexcept { run_stage(rows, chunk, false); }
void step(const LayerRows& rows, std::int64_t chunk) noexcept { run_stage(rows, chunk, true); }

void check_pipelines(Checks& checks) {
  const ForwardPass pass{&shape, nullptr, nullptr, project, step};
  for (const int layers : {1, 2, 5})
    for (const int team : {1, 2, 4, 9})
      for (const std::int64_t chunks : {1, 2, 3, 40}) {
        std::vector<char> states(std::size_t(2 * layers));
        log.layers.clear();
        log.buffers = team == 1 ? 1 : 2;
        log.wrong = log.done = 0;
        log.projected.assign(std::size_t(layers), 0);
        log.stepped.assign(std::size_t(layers), 0);
        log.is_stepping.assign(std::size_t(layers), false);
        Pipeline pipeline(pass, chunks, int(log.buffers));
        for (int l = 0; l < layers; ++l) {
          char* const buffers = &states[std::size_t(2 * l)];
          LayerRows rows{};
          rows.states[0] = buffers, rows.states[1] = buffers + 1;
          log.layers.push_back(rows.states[0]);
          pipeline.add(rows);
        }
        in_parallel(team, [&](int) noexcept { pipeline.run(); });
        checks.that(log.wrong == 0 && log.done == 2 * layers * chunks,
                    "%d layers, a team of %d, %ld chunks: %d stages of %ld ran, %d of them too "
                    "early",
                    layers, team, long(chunks), log.done, long(2 * layers * chunks), log.wrong);
      }
}

}  // namespace

void test_schedule(Checks& checks) {
  check_parts(checks);
  check_division(checks);
  check_threads(checks);
  check_memory(checks);
  check_pipelines(checks);
}

}  // namespace brc::tests
