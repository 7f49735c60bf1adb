// Scratch memory, and large pages.

#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace brc {

constexpr std::size_t large_page = std::size_t(2) << 20;

// a + b, or std::bad_alloc where no memory is as large.
inline std::size_t checked_sum(std::size_t a, std::size_t b) {
  std::size_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw std::bad_alloc();
  return sum;
}

// Asks for large pages under a large fresh tensor: touching it page by page takes longer than
// computing what is written to it. NULL stands for no tensor.
inline void expect_writes(void* memory, std::int64_t bytes) {
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
  inline static thread_local Memory kept_;
  Memory memory_;
  std::size_t size_ = 0;
};

}  // namespace brc
