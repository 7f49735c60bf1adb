// The C interface: chooses the instruction set, shares rows and units out over threads.

#include "brc.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <future>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "pass.h"

namespace brc {

// clang-format off
#ifdef BRC_X86
namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
#endif
namespace baseline { extern const Kernels kernels; }
// clang-format on

// A barrier that spins, since the others are there within microseconds; where threads outnumber the
// cores, it soon lets the others have them.
class Team {
 public:
  explicit Team(int size) : size_(size) {}

  void meet() {
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      if (spins > patience) std::this_thread::yield();
  }

 private:
  static constexpr int patience = 2000;
  const int size_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};

void meet(Team& team) { team.meet(); }

namespace {

struct InstructionSets {
  const Kernels* kernels[3];
  const char* names;
};

const InstructionSets& instruction_sets() {
#ifdef BRC_X86
  static const InstructionSets sets = [] {
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw");
    if (avx512)
      return InstructionSets{{&avx512::kernels, &avx2::kernels, &baseline::kernels},
                             "avx512,avx2,baseline"};
    if (avx2) return InstructionSets{{&avx2::kernels, &baseline::kernels}, "avx2,baseline"};
    return InstructionSets{{&baseline::kernels}, "baseline"};
  }();
#else
  static const InstructionSets sets{{&baseline::kernels}, "baseline"};
#endif
  return sets;
}

constexpr std::size_t large_page = std::size_t(2) << 20;

// Asks for large pages under a large fresh tensor: touching it page by page takes longer than
// computing what is written to it.
void expect_writes(void* memory, std::int64_t bytes) {
#ifdef __linux__
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const auto begin = (address + large_page - 1) / large_page * large_page;
  const auto end = (address + std::uintptr_t(bytes)) / large_page * large_page;
  if (memory && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Scratch memory, in large pages if it is large, since products walk across many rows of it at once.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes) {
    const std::size_t alignment = bytes < large_page / 16 ? 64 : large_page;
    size_ = (bytes + alignment) / alignment * alignment;
    data_ = std::aligned_alloc(alignment, size_);
    if (!data_) throw std::bad_alloc();
    expect_writes(data_, std::int64_t(size_));
  }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Memory() { std::free(data_); }
  char* data() const { return static_cast<char*>(data_); }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// The scratch memory of one call, cut into pieces. A calling thread keeps a small one for its next
// call: fresh pages take longer to come than a short sequence to compute.
class Workspace {
 public:
  std::size_t add(std::size_t bytes) {
    const std::size_t offset = size_;
    size_ += (bytes + 63) / 64 * 64;
    return offset;
  }
  void allocate() {
    memory_ = std::move(kept_);
    if (memory_.size() < size_) memory_ = Memory(size_);
  }
  void* piece(std::size_t offset) const { return memory_.data() + offset; }
  ~Workspace() {
    if (memory_.size() <= 2 * large_page) kept_ = std::move(memory_);
  }

 private:
  static thread_local Memory kept_;
  Memory memory_;
  std::size_t size_ = 0;
};

thread_local Memory Workspace::kept_;

// Threads that are worth starting: one costs some 20 microseconds, so each gets at least ten times
// that, at about 10 multiply-adds a nanosecond.
int useful_threads(const brc_layer& layer) {
  constexpr double least = 2e6;
  const double per_row = double(layer.hidden_size) *
                         (3.0 * double(layer.input_size) + 50.0 +
                          (layer.full_memory ? 2.0 * double(layer.hidden_size) : 0.0));
  const double by_work = double(layer.steps) * double(layer.batch) * per_row / least;
  return int(std::clamp(by_work, 1.0, std::max(double(layer.threads), 1.0)));
}

// How the blocks of a layer are cut: thread i has part i / units of the rows, and part i % units of
// the units.
struct Division {
  int rows, units;

  int threads() const { return rows * units; }
  Block block(const brc_layer& layer, int thread) const {
    constexpr std::int64_t whole = 16;  // units of a vector, or more
    const auto part = [](std::int64_t n, int parts, int i) {
      return Range{n * i / parts, n * (i + 1) / parts};
    };
    const auto [first, last] = part((layer.hidden_size + whole - 1) / whole, units, thread % units);
    return {part(layer.batch, rows, thread / units),
            {first * whole, std::min(last * whole, layer.hidden_size)}};
  }
};

Division by_rows(const brc_layer& layer) {
  const std::int64_t most = std::max<std::int64_t>(layer.batch, 1);
  return {int(std::min<std::int64_t>(useful_threads(layer), most)), 1};
}

// Where the rows are fewer than the threads, units are shared out too. The nBRC's threads then meet
// at each step, which takes them as long as some ten thousand multiply-adds.
Division by_rows_and_units(const brc_layer& layer) {
  constexpr std::int64_t least = 65536;
  Division division = by_rows(layer);
  const std::int64_t hidden = layer.hidden_size;
  std::int64_t units = std::min<std::int64_t>(useful_threads(layer) / division.rows, hidden / 16);
  if (layer.full_memory) units = std::min(units, 2 * hidden * hidden / least);
  division.units = int(std::max<std::int64_t>(units, 1));
  return division;
}

// Calls body(thread) for all threads, the last on the caller's. They are started afresh each time:
// with no pool there is nothing that a fork could leave behind, or that callers would have to
// share. A thread that cannot be had runs here.
template <class Body>
void in_parallel(int threads, const Body& body) {
  std::vector<std::thread> started;
  started.reserve(std::size_t(threads));
  int next = 0;
  try {
    for (; next < threads - 1; ++next) started.emplace_back(body, next);
  } catch (const std::system_error&) {
  }
  for (; next < threads; ++next) body(next);
  for (std::thread& thread : started) thread.join();
}

// The same for threads that wait for each other: if one cannot be had, none runs. Returns whether
// they did.
template <class Body>
bool all_in_parallel(int threads, const Body& body) {
  std::promise<bool> all_are_there;
  std::vector<std::thread> started;
  started.reserve(std::size_t(threads));
  bool run = true;
  try {
    const std::shared_future<bool> go = all_are_there.get_future().share();
    for (int i = 0; i < threads - 1; ++i)
      started.emplace_back([&body, go, i] {
        if (go.get()) body(i);
      });
  } catch (const std::exception&) {  // no thread, or no memory to start it
    run = false;
  }
  all_are_there.set_value(run);
  if (run) body(threads - 1);
  for (std::thread& thread : started) thread.join();
  return run;
}

// Returns false, with nothing computed, if threads that wait for each other cannot all be had.
bool forward(const brc_layer& layer, const Outputs& outputs, const Division& division) {
  const ForwardPass& pass = instruction_sets()
                                .kernels[layer.instruction_set]
                                ->forward[layer.is_double][layer.full_memory];
  const int threads = division.threads();
  Workspace workspace;
  std::vector<std::size_t> weights, shared, own;
  for (int i = 0; i < threads; ++i) {
    const Scratch scratch = pass.scratch(layer, division.block(layer, i));
    if (i < division.units) weights.push_back(workspace.add(scratch.weights));
    if (i % division.units == 0) shared.push_back(workspace.add(scratch.team));
    own.push_back(workspace.add(scratch.own));
  }
  workspace.allocate();
  for (int i = 0; i < division.units; ++i)
    pass.pack(layer, division.block(layer, i), workspace.piece(weights[std::size_t(i)]));
  std::deque<Team> teams;
  const bool meets = layer.full_memory && division.units > 1;
  if (meets)
    for (int i = 0; i < division.rows; ++i) teams.emplace_back(division.units);
  const auto run = [&](int i) {
    const auto team = std::size_t(i / division.units), part = std::size_t(i % division.units);
    pass.run(layer, outputs, division.block(layer, i), workspace.piece(weights[part]),
             workspace.piece(shared[team]), workspace.piece(own[std::size_t(i)]),
             meets ? &teams[team] : nullptr);
  };
  if (meets) return all_in_parallel(threads, run);
  in_parallel(threads, run);
  return true;
}

}  // namespace
}  // namespace brc

extern "C" {

const char* brc_instruction_sets(void) { return brc::instruction_sets().names; }

int brc_forward(const brc_layer* layer, void* output, void* last, void* gates) try {
  using namespace brc;
  const std::int64_t bytes = layer->steps * layer->batch * (layer->is_double ? 8 : 4);
  expect_writes(output, bytes * layer->hidden_size);
  expect_writes(gates, bytes / layer->steps * layer->kept_steps * layer->hidden_size * 2);
  const Outputs outputs{output, last, gates};
  if (!forward(*layer, outputs, by_rows_and_units(*layer)))
    forward(*layer, outputs, by_rows(*layer));
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

int brc_backward(const brc_layer* layer, const brc_gradients* gradients) try {
  using namespace brc;
  const BackwardPass& pass = instruction_sets()
                                 .kernels[layer->instruction_set]
                                 ->backward[layer->is_double][layer->full_memory];
  const std::int64_t bytes = layer->steps * layer->batch * (layer->is_double ? 8 : 4);
  expect_writes(gradients->grad_input, bytes * layer->input_size);
  const Division division = by_rows(*layer);
  const int threads = division.threads();
  Workspace workspace;
  const std::size_t weights = workspace.add(pass.scratch(*layer, division.block(*layer, 0)).weights);
  std::vector<std::size_t> offsets;
  for (int i = 0; i < threads; ++i)
    offsets.push_back(workspace.add(pass.scratch(*layer, division.block(*layer, i)).own));
  workspace.allocate();
  std::vector<void*> own;
  for (const std::size_t offset : offsets) own.push_back(workspace.piece(offset));
  pass.pack(*layer, division.block(*layer, 0), workspace.piece(weights));
  in_parallel(threads, [&](int i) {
    pass.run(*layer, *gradients, division.block(*layer, i), workspace.piece(weights),
             own[std::size_t(i)]);
  });
  pass.reduce(*layer, *gradients, own.data(), threads);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

}  // extern "C"
