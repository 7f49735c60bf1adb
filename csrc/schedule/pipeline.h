// A block of batch rows on its way through all layers.

#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <thread>

#include "schedule/pass.h"

namespace brc {

// Some batch rows' way through all layers, by one thread or several. Each takes any stage of a
// chunk that the others' work allows, the highest layer's first; so one alone goes through all
// layers with a chunk while it is in its cache, and needs one buffer where several need two.
class Pipeline {
 public:
  Pipeline(const ForwardPass& pass, std::int64_t chunks, int buffers)
      : pass_(pass), chunks_(chunks), buffers_(buffers) {}

  void add(const LayerRows& rows) {
    Layer& layer = layers_.emplace_back();
    layer.rows = rows;
    if (layers_.size() > 1) layer.rows.below = layers_[layers_.size() - 2].rows.states;
  }

  void run() noexcept {
    for (int idle = 0; layers_.back().step.begun.load(std::memory_order_relaxed) < chunks_;)
      if (advance())
        idle = 0;
      else if (++idle > patience)
        std::this_thread::yield();
  }

 private:
  static constexpr int patience = 2000;  // the others are done within microseconds, if they run

  struct alignas(64) Stage {
    std::atomic<std::int64_t> begun{0}, ended[2] = {0, 0};  // chunks; `ended` by buffer

    bool has_ended(std::int64_t chunk) const {
      return chunk < 0 || ended[chunk % 2].load(std::memory_order_acquire) > chunk;
    }
  };
  struct Layer {
    LayerRows rows{};
    Stage project, step;
  };

  bool may_project(std::size_t l, std::int64_t chunk) const noexcept {
    return (l == 0 || layers_[l - 1].step.has_ended(chunk)) &&
           layers_[l].step.has_ended(chunk - buffers_);
  }
  bool may_step(std::size_t l, std::int64_t chunk) const noexcept {
    return layers_[l].project.has_ended(chunk) && layers_[l].step.has_ended(chunk - 1) &&
           (l + 1 == layers_.size() || layers_[l + 1].project.has_ended(chunk - buffers_));
  }

  bool advance() noexcept {
    for (std::size_t l = layers_.size(); l-- > 0;) {
      Layer& layer = layers_[l];
      if (take(l, layer.step, &Pipeline::may_step, pass_.step)) return true;
      if (take(l, layer.project, &Pipeline::may_project, pass_.project)) return true;
    }
    return false;
  }

  bool take(std::size_t l, Stage& stage,
            bool (Pipeline::*may)(std::size_t, std::int64_t) const noexcept,
            void (*work)(const LayerRows&, std::int64_t) noexcept) noexcept {
    std::int64_t chunk = stage.begun.load(std::memory_order_relaxed);
    if (chunk == chunks_ || !(this->*may)(l, chunk) ||
        !stage.begun.compare_exchange_strong(chunk, chunk + 1, std::memory_order_relaxed))
      return false;
    work(layers_[l].rows, chunk);
    stage.ended[chunk % 2].store(chunk + 1, std::memory_order_release);
    return true;
  }

  const ForwardPass& pass_;
  const std::int64_t chunks_;
  const int buffers_;
  std::deque<Layer> layers_;
};

}  // namespace brc
