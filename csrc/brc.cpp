// The C interface: chooses the instruction set, shares the batch rows out over threads.

#include "brc.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <new>
#include <system_error>
#include <thread>
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

// Scratch memory; a large one in large pages, since products walk across many rows of it at once.
class Memory {
 public:
  explicit Memory(std::size_t bytes) {
    const std::size_t alignment = bytes < large_page / 2 ? 64 : large_page;
    const std::size_t size = (bytes + alignment) / alignment * alignment;
    data_ = std::aligned_alloc(alignment, size);
    if (!data_) throw std::bad_alloc();
    expect_writes(data_, std::int64_t(size));
  }
  Memory(Memory&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  ~Memory() { std::free(data_); }
  void* get() const { return data_; }

 private:
  void* data_;
};

// Threads that are worth starting: one costs some 20 microseconds, so each gets at least ten times
// that, at about 10 multiply-adds a nanosecond.
int useful_threads(const brc_layer& layer) {
  constexpr double least = 2e6;
  const double per_row = double(layer.hidden_size) *
                         (3.0 * double(layer.input_size) + 50.0 +
                          (layer.full_memory ? 2.0 * double(layer.hidden_size) : 0.0));
  const double by_work = double(layer.steps) * double(layer.batch) * per_row / least;
  double threads = double(layer.threads);
  if (by_work < threads) threads = by_work;
  if (double(layer.batch) < threads) threads = double(layer.batch);
  return threads < 1 ? 1 : int(threads);
}

Rows share(const brc_layer& layer, int threads, int thread) {
  return {layer.batch * thread / threads, layer.batch * (thread + 1) / threads};
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

}  // namespace
}  // namespace brc

extern "C" {

const char* brc_instruction_sets(void) { return brc::instruction_sets().names; }

int brc_forward(const brc_layer* layer, void* output, void* last, void* gates) try {
  using namespace brc;
  const ForwardPass& pass = instruction_sets()
                                .kernels[layer->instruction_set]
                                ->forward[layer->is_double][layer->full_memory];
  const std::int64_t bytes = layer->steps * layer->batch * (layer->is_double ? 8 : 4);
  expect_writes(output, bytes * layer->hidden_size);
  expect_writes(gates, bytes * layer->hidden_size * 2);
  const int threads = useful_threads(*layer);
  const Memory shared(pass.scratch(*layer, {0, 0}).shared);
  std::vector<Memory> own;
  for (int i = 0; i < threads; ++i)
    own.emplace_back(pass.scratch(*layer, share(*layer, threads, i)).own);
  pass.pack(*layer, shared.get());
  in_parallel(threads, [&](int i) {
    pass.run(*layer, {output, last, gates}, share(*layer, threads, i), shared.get(), own[i].get());
  });
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
  const int threads = useful_threads(*layer);
  const Memory shared(pass.scratch(*layer, {0, 0}).shared);
  std::vector<Memory> own;
  std::vector<void*> pointers;
  for (int i = 0; i < threads; ++i) {
    own.emplace_back(pass.scratch(*layer, share(*layer, threads, i)).own);
    pointers.push_back(own.back().get());
  }
  pass.pack(*layer, *gradients, shared.get());
  in_parallel(threads, [&](int i) {
    pass.run(*layer, *gradients, share(*layer, threads, i), shared.get(), pointers[i]);
  });
  pass.reduce(*layer, *gradients, pointers.data(), threads);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

}  // extern "C"
