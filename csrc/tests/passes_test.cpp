// Both passes beside the equations: outputs as they are written out, gradients as a difference
// quotient along a random direction; any rows, layers and threads give the same bits.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/problem.h"

namespace brc::tests {
namespace {

template <class T>
void check(Checks& checks, const char* name, const Case& c, int instruction_set, int threads) {
  const double tolerance = sizeof(T) == 8 ? 1e-6 : 2e-3;
  Problem<T> problem(c, 1);
  std::vector<T> output, expected;
  const auto gradients = problem.run(instruction_set, threads, output);
  problem.loss(&expected);
  std::size_t worst = 0;
  for (std::size_t i = 0; i < output.size(); ++i)
    if (!(std::abs(output[i] - expected[i]) <= std::abs(output[worst] - expected[worst])))
      worst = i;
  if (!output.empty())
    checks.that(std::abs(output[worst] - expected[worst]) < tolerance,
                "%s: output %zu is %g, not %g", name, worst, double(output[worst]),
                double(expected[worst]));

  // The equations run in double, so the difference quotient is precise for float inputs too.
  const double step = sizeof(T) == 8 ? 1e-6 : 1e-3;
  const Problem<T> direction(c, 2);
  double predicted = 0, losses[2];
  for (int side = 0; side < 2; ++side) {
    Problem<T> moved = problem;
    for (std::size_t k = 0; k < moved.inputs.size(); ++k)
      for (std::size_t i = 0; i < moved.inputs[k].size(); ++i)
        moved.inputs[k][i] += T((side ? step : -step) * direction.inputs[k][i]);
    losses[side] = moved.loss();
  }
  for (std::size_t k = 0; k < gradients.size(); ++k)
    for (std::size_t i = 0; i < gradients[k].size(); ++i)
      predicted += double(gradients[k][i]) * direction.inputs[k][i];
  const double measured = (losses[1] - losses[0]) / (2 * step);
  checks.that(std::abs(predicted - measured) < 50 * tolerance * (1 + std::abs(measured)),
              "%s: the gradients say %g along a direction, the difference quotient %g", name,
              predicted, measured);
}

// Three layers at once give the same bits as one after the other, for any number of threads.
template <class T>
void check_layers(Checks& checks, const char* name, Case c, int instruction_set, int threads) {
  c.saved_steps = 0;
  const std::int64_t B = c.batch, H = c.hidden_size;
  constexpr int count = 3;
  std::vector<Problem<T>> problems{{c, 1}};
  c.input_size = H;
  for (unsigned seed = 2; seed <= count; ++seed) problems.emplace_back(c, seed);
  const int states = c.of_cell().states;
  std::vector<T> expected, output(c.steps * B * H), no_saved;
  // Layer by layer, within each the states; and state by state.
  std::vector<std::vector<T>> last_in_turn, last(states, std::vector<T>(count * B * H));
  std::vector<brc_layer> layers;
  for (int l = 0; l < count; ++l) {
    problems[l].lengths = problems[0].lengths, problems[l].resets = problems[0].resets;
    layers.push_back(problems[l].describe(instruction_set, threads));
    if (l > 0) layers[l].input = nullptr;
    if (l > 0) problems[l].inputs[0] = expected;
    expected.resize(c.steps * B * H);
    last_in_turn.push_back(problems[l].new_last());
    if (problems[l].forward(problems[l].describe(instruction_set, 1), expected,
                            last_in_turn.back(), no_saved))
      throw std::bad_alloc();
  }
  void* of_states[BRC_STATES] = {};
  for (int s = 0; s < states; ++s) of_states[s] = last[s].data();
  if (brc_forward(layers.data(), count, output.data(), of_states, nullptr)) throw std::bad_alloc();
  checks.that(output == expected, "%s: three layers at once have other outputs", name);
  for (int l = 0; l < count; ++l)
    for (int s = 0; s < states; ++s)
      checks.that(std::equal(last[s].begin() + l * B * H, last[s].begin() + (l + 1) * B * H,
                             last_in_turn[l].begin() + s * B * H),
                  "%s: three layers at once have other last states", name);
}

}  // namespace

void test_passes(Checks& checks) {
  constexpr int count = int(std::size(cells));
  std::string of_cells;
  for (const Cell& cell : cells) {
    if (!of_cells.empty()) of_cells += ',';
    of_cells += cell.name;
  }
  checks.that(std::string(brc_cells()).rfind(of_cells, 0) == 0, "the first cells are %s, not %s",
              brc_cells(), of_cells.c_str());
  const std::string names = brc_instruction_sets();
  int sets = 1;
  for (const char letter : names) sets += letter == ',';
  // The last three are large enough for several threads, the last two for teams of them.
  const std::int64_t shapes[][4] = {{1, 1, 1, 1},  {1, 1, 6, 23}, {7, 3, 2, 5}, {6, 9, 17, 19},
                                    {3, 2, 33, 50}, {20, 30, 1, 3}, {2, 0, 3, 4},
                                    {40, 12, 4, 16}, {4, 5, 0, 7}, {30, 20, 32, 64},
                                    {400, 2, 3, 70}, {100, 1, 5, 259}};
  for (int set = 0; set < sets; ++set)
    for (const auto& [steps, batch, input, hidden] : shapes)
      for (int options = 0; options < 16 * count; ++options) {
        const int number = options % count, flags = options / count;
        const Cell& cell = cells[number];
        // A cell of several states saves all steps or none, and without them has no gradients.
        const bool saves_all = flags & 4 || cell.states > 1;
        const Case c{steps, batch, input, hidden, number, bool(flags & 1), bool(flags & 2),
                     bool(flags & 4), saves_all ? steps : steps * (options % 3) / 3,
                     cell.biases[options % 3], bool(flags & 8)};
        if (hidden >= 64 && options % 11) continue;  // takes long; 11 goes through all cells
        if (!checks.takes_next()) continue;
        char name[160];
        std::snprintf(name, sizeof name,
                      "instruction set %d of %s, %s, T %ld B %ld I %ld H %ld, options %d", set,
                      names.c_str(), cell.name, long(steps), long(batch), long(input), long(hidden),
                      options);
        check<float>(checks, name, c, set, 64);
        check<double>(checks, name, c, set, 3);
        check_layers<float>(checks, name, c, set, 5);
        check_layers<double>(checks, name, c, set, 64);
      }
}

}  // namespace brc::tests
