// The kernels' own test, meant to run under sanitizers: every buffer is as large as the interface
// says and no larger. Outputs are compared with the equations written out, gradients with
// a difference quotient along a random direction.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "brc.h"

namespace {

struct Case {
  std::int64_t steps, batch, input_size, hidden_size;
  bool full_memory, reverse, with_lengths;
  std::int64_t kept_steps;
  int bias_gates;
};

// The tensors of one layer, their gradients in the same order, and what a pass leaves.
template <class T>
struct Problem {
  Case c;
  std::vector<std::vector<T>> inputs;  // input, h_0, kernel, memory, bias
  std::vector<std::int64_t> lengths;
  std::vector<T> cotangent_output, cotangent_last;

  Problem(const Case& c, unsigned seed) : c(c) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const std::int64_t T_ = c.steps, B = c.batch, I = c.input_size, H = c.hidden_size;
    const auto draw = [&](std::int64_t n, double scale) {
      std::vector<T> v(n);
      for (T& x : v) x = T(scale * normal(random));
      return v;
    };
    inputs = {draw(T_ * B * I, 1), draw(B * H, 0.5), draw(I * 3 * H, 1 / std::sqrt(1. + I)),
              draw(c.full_memory ? H * 2 * H : 2 * H, 1 / std::sqrt(1. + H)),
              draw(c.bias_gates * H, 0.5)};
    cotangent_output = draw(T_ * B * H, 1);
    cotangent_last = draw(B * H, 1);
    for (std::int64_t b = 0; b < B; ++b) lengths.push_back(std::int64_t(random() % (T_ + 1)));
  }

  bool is_data(std::int64_t t, std::int64_t b) const { return !c.with_lengths || t < lengths[b]; }

  // The loss <cotangents, results> by the equations, in double precision.
  double loss(std::vector<T>* output = nullptr) const {
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    std::vector<double> h(inputs[1].begin(), inputs[1].end());
    if (output) output->assign(c.steps * B * H, T(0));
    double total = 0;
    for (std::int64_t p = 0; p < c.steps; ++p)
      for (std::int64_t b = 0; b < B; ++b) {
        const std::int64_t t = c.reverse ? c.steps - 1 - p : p;
        if (!is_data(t, b)) continue;
        std::vector<double> next(H);
        for (std::int64_t j = 0; j < H; ++j) {
          double z[3] = {};
          for (int gate = 0; gate < 3; ++gate) {
            if (gate < c.bias_gates) z[gate] = inputs[4][gate * H + j];
            for (std::int64_t i = 0; i < I; ++i)
              z[gate] += double(inputs[0][(t * B + b) * I + i]) * inputs[2][i * 3 * H + gate * H + j];
          }
          for (int gate = 0; gate < 2; ++gate)
            if (c.full_memory)
              for (std::int64_t k = 0; k < H; ++k)
                z[gate] += h[b * H + k] * inputs[3][k * 2 * H + gate * H + j];
            else
              z[gate] += h[b * H + j] * inputs[3][gate * H + j];
          const double update = 1 / (1 + std::exp(-z[0])), feedback = 1 + std::tanh(z[1]);
          next[j] = update * h[b * H + j] +
                    (1 - update) * std::tanh(z[2] + feedback * h[b * H + j]);
        }
        for (std::int64_t j = 0; j < H; ++j) {
          h[b * H + j] = next[j];
          const std::int64_t at = (t * B + b) * H + j;
          if (output) (*output)[at] = T(next[j]);
          total += next[j] * cotangent_output[at];
        }
      }
    for (std::int64_t i = 0; i < B * H; ++i) total += h[i] * cotangent_last[i];
    return total;
  }

  brc_layer describe(int instruction_set, int threads) const {
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    const auto bias = [&](int gate) {
      return gate < c.bias_gates ? inputs[4].data() + gate * H : nullptr;
    };
    return {c.steps, B, I, H, {B * I, I, 1}, inputs[0].data(), inputs[1].data(),
            {inputs[2].data(), inputs[2].data() + H, inputs[2].data() + 2 * H},
            {inputs[3].data(), inputs[3].data() + H},
            {bias(0), bias(1), bias(2)},
            3 * H, 2 * H, c.with_lengths ? lengths.data() : nullptr, c.kept_steps,
            c.full_memory, sizeof(T) == 8, c.reverse, threads, instruction_set};
  }

  // Runs both passes; returns the gradients, in the order of `inputs`.
  std::vector<std::vector<T>> run(int instruction_set, int threads, std::vector<T>& output) const {
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    const brc_layer layer = describe(instruction_set, threads);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    output.assign(c.steps * B * H, nan);
    std::vector<T> last(B * H, nan), gates(c.kept_steps * B * 2 * H, nan);
    std::vector<std::vector<T>> gradients;
    for (const auto& input : inputs) gradients.emplace_back(input.size(), nan);
    const brc_gradients arguments{output.data(), gates.data(),
                                  cotangent_output.data(), {B * H, H, 1}, cotangent_last.data(),
                                  gradients[0].data(), {B * I, I, 1}, gradients[1].data(),
                                  gradients[2].data(), gradients[3].data(),
                                  c.bias_gates ? gradients[4].data() : nullptr};
    if (brc_forward(&layer, 1, output.data(), last.data(), gates.data()) ||
        brc_backward(&layer, &arguments))
      throw std::bad_alloc();
    return gradients;
  }
};

template <class T>
bool check(const Case& c, int instruction_set, int threads) {
  const double tolerance = sizeof(T) == 8 ? 1e-6 : 2e-3;
  Problem<T> problem(c, 1);
  std::vector<T> output, expected;
  const auto gradients = problem.run(instruction_set, threads, output);
  problem.loss(&expected);
  for (std::size_t i = 0; i < output.size(); ++i)
    if (!(std::abs(output[i] - expected[i]) < tolerance)) return false;

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
  return std::abs(predicted - measured) < 50 * tolerance * (1 + std::abs(measured));
}

// Three layers at once give the same bits as one after the other, for any number of threads.
template <class T>
bool check_layers(Case c, int instruction_set, int threads) {
  c.kept_steps = 0;
  const std::int64_t B = c.batch, H = c.hidden_size;
  constexpr int count = 3;
  std::vector<Problem<T>> problems{{c, 1}};
  c.input_size = H;
  for (unsigned seed = 2; seed <= count; ++seed) problems.emplace_back(c, seed);
  std::vector<T> expected, output(c.steps * B * H), last(count * B * H), last_in_turn(count * B * H);
  std::vector<brc_layer> layers;
  for (int l = 0; l < count; ++l) {
    problems[l].lengths = problems[0].lengths;
    layers.push_back(problems[l].describe(instruction_set, threads));
    if (l > 0) layers[l].input = nullptr;
    if (l > 0) problems[l].inputs[0] = expected;
    expected.resize(c.steps * B * H);
    const brc_layer alone = problems[l].describe(instruction_set, 1);
    if (brc_forward(&alone, 1, expected.data(), last_in_turn.data() + l * B * H, nullptr))
      throw std::bad_alloc();
  }
  if (brc_forward(layers.data(), count, output.data(), last.data(), nullptr))
    throw std::bad_alloc();
  return output == expected && last == last_in_turn;
}

}  // namespace

int main() {
  const std::string names = brc_instruction_sets();
  int sets = 1, passed = 0, failed = 0;
  for (const char letter : names) sets += letter == ',';
  // The last three are large enough for several threads, the last two for teams of them.
  const std::int64_t shapes[][4] = {{1, 1, 1, 1},  {7, 3, 2, 5}, {6, 9, 17, 19},
                                    {3, 2, 33, 50}, {20, 30, 1, 3}, {2, 0, 3, 4},
                                    {40, 12, 4, 16}, {4, 5, 0, 7}, {30, 20, 32, 64},
                                    {400, 2, 3, 70}, {100, 1, 5, 259}};
  for (int set = 0; set < sets; ++set)
    for (const auto& [steps, batch, input, hidden] : shapes)
      for (int options = 0; options < 16; ++options) {
        const Case c{steps, batch, input, hidden, bool(options & 1), bool(options & 2),
                     bool(options & 4), options & 8 ? steps : steps * (options % 3) / 3,
                     options % 3 + (options % 3 == 1)};
        if (hidden >= 64 && options % 5) continue;  // takes long
        const bool ok = check<float>(c, set, 64) && check<double>(c, set, 3) &&
                        check_layers<float>(c, set, 5) && check_layers<double>(c, set, 64);
        if (!ok)
          std::printf("failed: instruction set %d of %s, T %ld B %ld I %ld H %ld, options %d\n", set,
                      names.c_str(), long(steps), long(batch), long(input), long(hidden), options);
        ++(ok ? passed : failed);
      }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
