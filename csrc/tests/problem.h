// A layer to test the kernels with: drawn parameters, the equations written out, both passes run.
// Every buffer is as large as the interface says and no larger, so that a sanitizer sees a step
// beyond.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <random>
#include <vector>

#include "abi/brc.h"

namespace brc::tests {

struct Case {
  std::int64_t steps, batch, input_size, hidden_size;
  bool full_memory, reverse, with_lengths;
  std::int64_t saved_steps;
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
    return {c.steps, B, I, H, {B * I, I, 1}, inputs[0].data(), {inputs[1].data()},
            {inputs[2].data(), inputs[2].data() + H, inputs[2].data() + 2 * H},
            {inputs[3].data(), inputs[3].data() + H},
            {bias(0), bias(1), bias(2)}, {},
            3 * H, 2 * H, c.with_lengths ? lengths.data() : nullptr, c.saved_steps,
            c.full_memory, sizeof(T) == 8, c.reverse, threads, instruction_set};
  }

  // Where the backward pass finds what the forward pass left, and writes the gradients.
  brc_gradients describe_gradients(const std::vector<T>& output, const std::vector<T>& gates,
                                   std::vector<std::vector<T>>& gradients) const {
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    return {output.data(), gates.data(),
            cotangent_output.data(), {B * H, H, 1}, cotangent_last.data(),
            gradients[0].data(), {B * I, I, 1}, gradients[1].data(),
            gradients[2].data(), gradients[3].data(),
            c.bias_gates ? gradients[4].data() : nullptr, nullptr};
  }

  // Runs both passes; returns the gradients, in the order of `inputs`.
  std::vector<std::vector<T>> run(int instruction_set, int threads, std::vector<T>& output) const {
    const std::int64_t B = c.batch, H = c.hidden_size;
    const brc_layer layer = describe(instruction_set, threads);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    output.assign(c.steps * B * H, nan);
    std::vector<T> last(B * H, nan), gates(c.saved_steps * B * 2 * H, nan);
    std::vector<std::vector<T>> gradients;
    for (const auto& input : inputs) gradients.emplace_back(input.size(), nan);
    const brc_gradients arguments = describe_gradients(output, gates, gradients);
    if (brc_forward(&layer, 1, output.data(), last.data(), gates.data()) ||
        brc_backward(&layer, &arguments))
      throw std::bad_alloc();
    return gradients;
  }
};

}  // namespace brc::tests
