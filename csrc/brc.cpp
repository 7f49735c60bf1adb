// The C interface: chooses the instruction set, shares rows, chunks and layers out over threads.

#include "brc.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "environment.h"
#include "pass.h"
#ifdef BRC_X86
#include "processor.h"
#endif

namespace brc {

// clang-format off
#ifdef BRC_X86
namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
#endif
namespace baseline { extern const Kernels kernels; }
// clang-format on

namespace {

struct InstructionSets {
  const Kernels* kernels[3];
  const char* names;
};

const InstructionSets& instruction_sets() {
#ifdef BRC_X86
  static const InstructionSets sets = [] {
    const Processor processor;
    if (processor.avx512)
      return InstructionSets{{&avx512::kernels, &avx2::kernels, &baseline::kernels},
                             "avx512,avx2,baseline"};
    if (processor.avx2)
      return InstructionSets{{&avx2::kernels, &baseline::kernels}, "avx2,baseline"};
    return InstructionSets{{&baseline::kernels}, "baseline"};
  }();
#else
  static const InstructionSets sets{{&baseline::kernels}, "baseline"};
#endif
  return sets;
}

constexpr std::size_t large_page = std::size_t(2) << 20;

// a + b, or std::bad_alloc where no memory is as large.
std::size_t checked_sum(std::size_t a, std::size_t b) {
  std::size_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw std::bad_alloc();
  return sum;
}

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
    size_ = checked_sum(bytes, alignment) / alignment * alignment;
    alignment_ = std::align_val_t(alignment);
    data_ = ::operator new(size_, alignment_);
    expect_writes(data_, std::int64_t(size_));
  }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        alignment_(other.alignment_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(alignment_, other.alignment_);
    return *this;
  }
  ~Memory() { ::operator delete(data_, alignment_); }
  char* data() const { return static_cast<char*>(data_); }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
  std::align_val_t alignment_{64};
};

// The scratch memory of one call, cut into pieces. A calling thread keeps a small one for its next
// call: fresh pages take longer to come than a short sequence to compute.
class Workspace {
 public:
  std::size_t add(std::size_t bytes) {
    const std::size_t offset = size_;
    size_ = checked_sum(size_, checked_sum(bytes, 63) / 64 * 64);
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

// Multiply-adds that a layer takes, or what takes as long: those of its input, and those of its
// states with the nonlinearities, which come step by step.
struct Work {
  double drive = 0, recur = 0;

  explicit Work(const brc_layer& layer) {
    const double units = double(layer.steps) * double(layer.batch) * double(layer.hidden_size);
    drive = 3.0 * units * double(layer.input_size);
    recur = units * (50.0 + (layer.full_memory ? 2.0 * double(layer.hidden_size) : 0.0));
  }
};

// Threads that are worth starting: one costs some 20 microseconds, so each gets at least ten times
// that, at about 10 multiply-adds a nanosecond.
int useful_threads(const brc_layer& layer, double work) {
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

// Some batch rows' way through all layers, by one thread or several. Each takes any stage of a
// chunk that the others' work allows, the highest layer's first; so one alone goes through all
// layers with a chunk while it is in its cache, and needs one slot where several need two.
class Stream {
 public:
  Stream(const ForwardPass& pass, std::int64_t chunks, int slots)
      : pass_(pass), chunks_(chunks), slots_(slots) {}

  void add(const Lane& lane) {
    Layer& layer = layers_.emplace_back();
    layer.lane = lane;
    if (layers_.size() > 1) layer.lane.below = layers_[layers_.size() - 2].lane.states;
  }

  void run() noexcept {
    for (int idle = 0; layers_.back().recur.begun.load(std::memory_order_relaxed) < chunks_;)
      if (advance())
        idle = 0;
      else if (++idle > patience)
        std::this_thread::yield();
  }

 private:
  static constexpr int patience = 2000;  // the others are done within microseconds, if they run

  struct alignas(64) Stage {
    std::atomic<std::int64_t> begun{0}, ended[2] = {0, 0};  // chunks; `ended` by slot

    bool has_ended(std::int64_t chunk) const {
      return chunk < 0 || ended[chunk % 2].load(std::memory_order_acquire) > chunk;
    }
  };
  struct Layer {
    Lane lane{};
    Stage drive, recur;
  };

  bool may_drive(std::size_t l, std::int64_t chunk) const noexcept {
    return (l == 0 || layers_[l - 1].recur.has_ended(chunk)) &&
           layers_[l].recur.has_ended(chunk - slots_);
  }
  bool may_recur(std::size_t l, std::int64_t chunk) const noexcept {
    return layers_[l].drive.has_ended(chunk) && layers_[l].recur.has_ended(chunk - 1) &&
           (l + 1 == layers_.size() || layers_[l + 1].drive.has_ended(chunk - slots_));
  }

  bool advance() noexcept {
    for (std::size_t l = layers_.size(); l-- > 0;) {
      Layer& layer = layers_[l];
      if (take(l, layer.recur, &Stream::may_recur, pass_.recur)) return true;
      if (take(l, layer.drive, &Stream::may_drive, pass_.drive)) return true;
    }
    return false;
  }

  bool take(std::size_t l, Stage& stage,
            bool (Stream::*may)(std::size_t, std::int64_t) const noexcept,
            void (*work)(const Lane&, std::int64_t) noexcept) noexcept {
    std::int64_t chunk = stage.begun.load(std::memory_order_relaxed);
    if (chunk == chunks_ || !(this->*may)(l, chunk) ||
        !stage.begun.compare_exchange_strong(chunk, chunk + 1, std::memory_order_relaxed))
      return false;
    work(layers_[l].lane, chunk);
    stage.ended[chunk % 2].store(chunk + 1, std::memory_order_release);
    return true;
  }

  const ForwardPass& pass_;
  const std::int64_t chunks_;
  const int slots_;
  std::deque<Layer> layers_;
};

// From n * i / parts on, without a product that could overflow.
Range part(std::int64_t n, int parts, int i) {
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
Division divide(const brc_layer* layers, int count) {
  double work = 0, longest = 1;
  for (int l = 0; l < count; ++l) {
    const Work of_layer(layers[l]);
    work += of_layer.drive + of_layer.recur;
    longest = std::max(longest, of_layer.recur);
  }
  const int threads = useful_threads(layers[0], work);
  const int parts = int(std::clamp<std::int64_t>(layers[0].batch, 1, threads));
  return {parts, int(std::clamp(work / longest, 1.0, double(threads / parts)))};
}

// Steps of a chunk: a team needs several chunks at once, all others take what the cache holds.
std::int64_t longest_chunk(const brc_layer& layer, const Division& division) {
  if (division.team == 1) return layer.steps;
  constexpr std::int64_t rows_at_a_time = 64;
  const std::int64_t rows = std::max<std::int64_t>(layer.batch / division.parts, 1);
  return std::clamp<std::int64_t>(layer.steps / 8, 1, (rows_at_a_time + rows - 1) / rows);
}

}  // namespace
}  // namespace brc

extern "C" {

const char* brc_instruction_sets(void) { return brc::instruction_sets().names; }

int brc_forward(const brc_layer* layers, std::int32_t count, void* output, void* last,
                void* gates) try {
  using namespace brc;
  const FloatingPointEnvironment environment;
  const brc_layer& first = layers[0];
  const ForwardPass& pass = instruction_sets()
                                .kernels[first.instruction_set]
                                ->forward[first.is_double][first.full_memory];
  const std::int64_t size = first.is_double ? 8 : 4, state = first.batch * first.hidden_size * size;
  expect_writes(output, first.steps * state);
  expect_writes(gates, first.kept_steps * state * 2);

  const Division division = divide(layers, count);
  const std::int64_t longest = longest_chunk(first, division);
  const bool alone = division.team == 1;

  // Where the pieces of scratch memory are. A thread alone uses one slot for both, and the gates of
  // all its layers in turn.
  struct Place {
    std::size_t gates[2], states[2];
  };
  Workspace workspace;
  std::vector<std::size_t> weights;
  for (int l = 0; l < count; ++l)
    weights.push_back(workspace.add(pass.sizes(layers[l], {0, 0}, longest).weights));
  std::vector<Place> places;
  for (int i = 0; i < division.parts; ++i) {
    const Range rows = division.rows(first, i);
    std::size_t most_gates = 0;
    for (int l = 0; l < count; ++l)
      most_gates = std::max(most_gates, pass.sizes(layers[l], rows, longest).gates);
    const std::size_t gates_of_all = alone ? workspace.add(most_gates) : 0;
    for (int l = 0; l < count; ++l) {
      const LaneSizes sizes = pass.sizes(layers[l], rows, longest);
      Place& place = places.emplace_back();
      for (int slot = 0; slot < 2; ++slot) {
        place.gates[slot] = alone ? gates_of_all : workspace.add(sizes.gates);
        place.states[slot] = alone && slot ? place.states[0] : workspace.add(sizes.states);
      }
    }
  }
  workspace.allocate();

  for (int l = 0; l < count; ++l)
    pass.pack(layers[l], workspace.piece(weights[std::size_t(l)]));
  std::deque<Stream> streams;
  for (int i = 0; i < division.parts; ++i) {
    const Range rows = division.rows(first, i);
    const std::int64_t chunks = pass.sizes(first, rows, longest).chunks;
    Stream& stream = streams.emplace_back(pass, chunks, alone ? 1 : 2);
    for (int l = 0; l < count; ++l) {
      const Place& place = places[std::size_t(i * count + l)];
      const bool top = l == count - 1;
      stream.add({&layers[l], rows, longest, workspace.piece(weights[std::size_t(l)]),
                  {workspace.piece(place.gates[0]), workspace.piece(place.gates[1])},
                  {workspace.piece(place.states[0]), workspace.piece(place.states[1])},
                  nullptr,
                  {top ? output : nullptr, static_cast<char*>(last) + l * state, gates}});
    }
  }
  in_parallel(division.parts * division.team,
              [&](int i) noexcept { streams[std::size_t(i / division.team)].run(); });
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

int brc_backward(const brc_layer* layer, const brc_gradients* gradients) try {
  using namespace brc;
  const FloatingPointEnvironment environment;
  const BackwardPass& pass = instruction_sets()
                                 .kernels[layer->instruction_set]
                                 ->backward[layer->is_double][layer->full_memory];
  if (gradients->grad_input)
    expect_writes(gradients->grad_input, layer->steps * layer->batch * layer->input_size *
                                             (layer->is_double ? 8 : 4));
  const Work work(*layer);
  const int useful = useful_threads(*layer, work.drive + work.recur);
  const int threads = int(std::clamp<std::int64_t>(layer->batch, 1, useful));
  Workspace workspace;
  const std::size_t weights = workspace.add(pass.scratch(*layer, {0, 0}).weights);
  std::vector<std::size_t> offsets;
  for (int i = 0; i < threads; ++i)
    offsets.push_back(workspace.add(pass.scratch(*layer, part(layer->batch, threads, i)).own));
  workspace.allocate();
  std::vector<void*> own;
  for (const std::size_t offset : offsets) own.push_back(workspace.piece(offset));
  pass.pack(*layer, workspace.piece(weights));
  in_parallel(threads, [&](int i) noexcept {
    pass.run(*layer, *gradients, part(layer->batch, threads, i), workspace.piece(weights),
             own[std::size_t(i)]);
  });
  pass.reduce(*layer, *gradients, own.data(), threads);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

}  // extern "C"
