#include "schedule/run.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "schedule/memory.h"
#include "schedule/pipeline.h"
#include "schedule/threads.h"

namespace brc {

void run_forward(const ForwardPass& pass, const brc_layer* layers, int count, void* output,
                 void* const* last, void* saved) {
  const brc_layer& first = layers[0];
  const Division division = divide(*pass.cell, layers, count);
  const std::int64_t longest = longest_chunk(first, division);
  const bool alone = division.team == 1;

  // Where the pieces of scratch memory are. A thread alone uses one buffer for both, and the
  // arguments of all its layers in turn.
  struct Place {
    std::size_t arguments[2], states[2];
  };
  Workspace workspace;
  std::vector<std::size_t> weights;
  for (int l = 0; l < count; ++l)
    weights.push_back(workspace.add(pass.sizes(layers[l], {0, 0}, longest).weights));
  std::vector<Place> places;
  for (int i = 0; i < division.parts; ++i) {
    const Range rows = division.rows(first, i);
    std::size_t most_arguments = 0;
    for (int l = 0; l < count; ++l)
      most_arguments = std::max(most_arguments, pass.sizes(layers[l], rows, longest).arguments);
    const std::size_t arguments_of_all = alone ? workspace.add(most_arguments) : 0;
    for (int l = 0; l < count; ++l) {
      const ForwardSizes sizes = pass.sizes(layers[l], rows, longest);
      Place& place = places.emplace_back();
      for (int buffer = 0; buffer < 2; ++buffer) {
        place.arguments[buffer] = alone ? arguments_of_all : workspace.add(sizes.arguments);
        place.states[buffer] = alone && buffer ? place.states[0] : workspace.add(sizes.states);
      }
    }
  }
  workspace.allocate();

  const std::int64_t state = first.batch * first.hidden_size * (first.is_double ? 8 : 4);
  if (output) expect_writes(output, first.steps * state);
  if (saved) expect_writes(saved, first.saved_steps * state * pass.cell->saved);
  for (int l = 0; l < count; ++l)
    pass.pack(layers[l], workspace.piece(weights[std::size_t(l)]));
  std::deque<Pipeline> pipelines;
  for (int i = 0; i < division.parts; ++i) {
    const Range rows = division.rows(first, i);
    const std::int64_t chunks = pass.sizes(first, rows, longest).chunks;
    Pipeline& pipeline = pipelines.emplace_back(pass, chunks, alone ? 1 : 2);
    for (int l = 0; l < count; ++l) {
      const Place& place = places[std::size_t(i * count + l)];
      LayerRows of_layer{&layers[l],
                         rows,
                         longest,
                         workspace.piece(weights[std::size_t(l)]),
                         {workspace.piece(place.arguments[0]), workspace.piece(place.arguments[1])},
                         {workspace.piece(place.states[0]), workspace.piece(place.states[1])},
                         nullptr,
                         l == count - 1 ? output : nullptr,
                         {},
                         saved};
      for (int s = 0; s < pass.cell->states; ++s)
        of_layer.last[s] = static_cast<char*>(last[s]) + l * state;
      pipeline.add(of_layer);
    }
  }
  in_parallel(division.parts * division.team,
              [&](int i) noexcept { pipelines[std::size_t(i / division.team)].run(); });
}

void run_backward(const BackwardPass& pass, const brc_layer& layer,
                  const brc_gradients& gradients) {
  const Work work(*pass.cell, layer);
  const int useful = useful_threads(layer, work.projection + work.steps);
  const int threads = int(std::clamp<std::int64_t>(layer.batch, 1, useful));
  Workspace workspace;
  const std::size_t weights = workspace.add(pass.sizes(layer, {0, 0}).weights);
  std::vector<std::size_t> offsets;
  for (int i = 0; i < threads; ++i)
    offsets.push_back(workspace.add(pass.sizes(layer, part(layer.batch, threads, i)).own));
  workspace.allocate();
  std::vector<void*> own;
  for (const std::size_t offset : offsets) own.push_back(workspace.piece(offset));

  if (gradients.grad_input)
    expect_writes(gradients.grad_input, layer.steps * layer.batch * layer.input_size *
                                            (layer.is_double ? 8 : 4));
  pass.pack(layer, workspace.piece(weights));
  in_parallel(threads, [&](int i) noexcept {
    pass.run(layer, gradients, part(layer.batch, threads, i), workspace.piece(weights),
             own[std::size_t(i)]);
  });
  pass.reduce(layer, gradients, own.data(), threads);
}

}  // namespace brc
