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

// What a cell looks like from outside, in the order of brc_cells(), which may have more.
struct Cell {
  const char* name;
  int kernel_gates, memory_gates;
  bool has_matrix;
  int states;
  int biases[3];  // how many gates may have one: those beside the kernel come first
};
constexpr Cell cells[] = {{"brc", 3, 2, false, 1, {0, 2, 3}},
                          {"nbrc", 3, 2, true, 1, {0, 2, 3}},
                          {"gru", 3, 3, true, 1, {0, 3, 6}},
                          {"lstm", 4, 4, true, 2, {0, 4, 8}}};

struct Case {
  std::int64_t steps, batch, input_size, hidden_size;
  int cell;
  bool reverse, with_lengths, is_transposed;  // the last: kernel and memory lie by columns
  std::int64_t saved_steps;
  int biases;
  bool with_resets = false;

  const Cell& of_cell() const { return cells[cell]; }
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// The states of a unit after a step, from what the input and what the state contribute to each gate.
inline void update(const Cell& cell, const double* x, const double* m, double* states) {
  const double first = sigmoid(x[0] + m[0]);
  if (cell.memory_gates == 2) {
    const double c = first, a = 1 + std::tanh(x[1] + m[1]);
    states[0] = c * states[0] + (1 - c) * std::tanh(x[2] + a * states[0]);
  } else if (cell.memory_gates == 3) {
    const double r = first, z = sigmoid(x[1] + m[1]), n = std::tanh(x[2] + r * m[2]);
    states[0] = (1 - z) * n + z * states[0];
  } else {
    const double i = first, f = sigmoid(x[1] + m[1]), g = std::tanh(x[2] + m[2]);
    states[1] = f * states[1] + i * g;
    states[0] = sigmoid(x[3] + m[3]) * std::tanh(states[1]);
  }
}

// The tensors of one layer, their gradients in the same order, and what a pass leaves.
template <class T>
struct Problem {
  Case c;
  std::vector<std::vector<T>> inputs;  // input, states, kernel, memory, bias, reset states
  std::vector<std::int64_t> lengths;
  std::vector<std::uint8_t> resets;
  std::vector<T> cotangent_output, cotangent_last;

  Problem(const Case& c, unsigned seed) : c(c) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const Cell& cell = c.of_cell();
    const std::int64_t T_ = c.steps, B = c.batch, I = c.input_size, H = c.hidden_size;
    const auto draw = [&](std::int64_t n, double scale) {
      std::vector<T> v(n);
      for (T& x : v) x = T(scale * normal(random));
      return v;
    };
    inputs = {draw(T_ * B * I, 1), draw(cell.states * B * H, 0.5),
              draw(I * cell.kernel_gates * H, 1 / std::sqrt(1. + I)),
              draw((cell.has_matrix ? H : 1) * cell.memory_gates * H, 1 / std::sqrt(1. + H)),
              draw(c.biases * H, 0.5), draw(c.with_resets ? cell.states * B * H : 0, 0.5)};
    cotangent_output = draw(T_ * B * H, 1);
    cotangent_last = draw(cell.states * B * H, 1);
    for (std::int64_t b = 0; b < B; ++b) lengths.push_back(std::int64_t(random() % (T_ + 1)));
    for (std::int64_t i = 0; i < T_ * B; ++i) resets.push_back(random() % 4 == 0);
  }

  bool is_data(std::int64_t t, std::int64_t b) const { return !c.with_lengths || t < lengths[b]; }

  // Whether a segment begins at this step, or in reverse behind it.
  bool begins_anew(std::int64_t t, std::int64_t b) const {
    const std::int64_t begin = t + c.reverse;
    return c.with_resets && begin < c.steps && is_data(begin, b) && resets[begin * c.batch + b];
  }

  // How rows and columns of the kernel, or of a memory that is a matrix, lie.
  void strides(std::int64_t rows, int gates, std::int64_t (&strides)[2]) const {
    strides[0] = c.is_transposed ? 1 : gates * c.hidden_size;
    strides[1] = c.is_transposed ? rows : 1;
  }
  void memory_strides(std::int64_t (&of_memory)[2]) const {
    if (c.of_cell().has_matrix)
      strides(c.hidden_size, c.of_cell().memory_gates, of_memory);
    else
      of_memory[0] = 0, of_memory[1] = 1;
  }

  // The loss <cotangents, results> by the equations, in double precision.
  double loss(std::vector<T>* output = nullptr) const {
    const Cell& cell = c.of_cell();
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    std::int64_t of_kernel[2], of_memory[2];
    strides(I, cell.kernel_gates, of_kernel);
    memory_strides(of_memory);
    std::vector<double> states(inputs[1].begin(), inputs[1].end());
    if (output) output->assign(c.steps * B * H, T(0));
    double total = 0;
    for (std::int64_t p = 0; p < c.steps; ++p)
      for (std::int64_t b = 0; b < B; ++b) {
        const std::int64_t t = c.reverse ? c.steps - 1 - p : p;
        if (!is_data(t, b)) continue;
        for (int s = 0; begins_anew(t, b) && s < cell.states; ++s)
          for (std::int64_t j = (s * B + b) * H; j < (s * B + b + 1) * H; ++j)
            states[j] = inputs[5][j];
        const std::vector<double> before(&states[0] + b * H, &states[0] + (b + 1) * H);
        for (std::int64_t j = 0; j < H; ++j) {
          double of_input[BRC_GATES] = {}, of_state[BRC_GATES] = {}, unit[BRC_STATES];
          for (int gate = 0; gate < cell.kernel_gates; ++gate) {
            if (gate < c.biases) of_input[gate] = inputs[4][gate * H + j];
            for (std::int64_t i = 0; i < I; ++i)
              of_input[gate] += double(inputs[0][(t * B + b) * I + i]) *
                                inputs[2][i * of_kernel[0] + (gate * H + j) * of_kernel[1]];
          }
          for (int gate = 0; gate < cell.memory_gates; ++gate) {
            if (const int place = cell.kernel_gates + gate; place < c.biases)
              of_state[gate] = inputs[4][place * H + j];
            const std::int64_t column = (gate * H + j) * of_memory[1];
            for (std::int64_t k = 0; k < H; ++k)
              if (cell.has_matrix || k == j)
                of_state[gate] += before[k] * inputs[3][k * of_memory[0] + column];
          }
          for (int s = 0; s < cell.states; ++s) unit[s] = states[(s * B + b) * H + j];
          update(cell, of_input, of_state, unit);
          for (int s = 0; s < cell.states; ++s) states[(s * B + b) * H + j] = unit[s];
          const std::int64_t at = (t * B + b) * H + j;
          if (output) (*output)[at] = T(unit[0]);
          total += unit[0] * cotangent_output[at];
        }
      }
    for (std::size_t i = 0; i < states.size(); ++i) total += states[i] * cotangent_last[i];
    return total;
  }

  brc_layer describe(int instruction_set, int threads) const {
    const Cell& cell = c.of_cell();
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    brc_layer layer{};
    layer.steps = c.steps, layer.batch = B, layer.input_size = I, layer.hidden_size = H;
    layer.input_strides[0] = B * I, layer.input_strides[1] = I, layer.input_strides[2] = 1;
    layer.input = inputs[0].data();
    for (int s = 0; s < cell.states; ++s) layer.initial_states[s] = inputs[1].data() + s * B * H;
    strides(I, cell.kernel_gates, layer.kernel_strides);
    memory_strides(layer.memory_strides);
    for (int gate = 0; gate < cell.kernel_gates; ++gate)
      layer.kernel[gate] = inputs[2].data() + gate * H * layer.kernel_strides[1];
    for (int gate = 0; gate < cell.memory_gates; ++gate)
      layer.memory[gate] = inputs[3].data() + gate * H * layer.memory_strides[1];
    for (int gate = 0; gate < c.biases; ++gate) {
      const int beside_memory = gate - cell.kernel_gates;
      (beside_memory < 0 ? layer.bias[gate] : layer.memory_bias[beside_memory]) =
          inputs[4].data() + gate * H;
    }
    layer.lengths = c.with_lengths ? lengths.data() : nullptr;
    if (c.with_resets) {
      layer.resets = resets.data();
      layer.resets_strides[0] = B, layer.resets_strides[1] = 1;
      for (int s = 0; s < cell.states; ++s) layer.reset_states[s] = inputs[5].data() + s * B * H;
    }
    layer.saved_steps = c.saved_steps, layer.cell = c.cell, layer.is_double = sizeof(T) == 8;
    layer.reverse = c.reverse, layer.threads = threads, layer.instruction_set = instruction_set;
    return layer;
  }

  // What a forward pass leaves beside its output.
  std::vector<T> new_saved() const {
    return std::vector<T>(c.saved_steps * c.batch * brc_saved(c.cell) * c.hidden_size,
                          std::numeric_limits<T>::quiet_NaN());
  }
  std::vector<T> new_last() const {
    return std::vector<T>(inputs[1].size(), std::numeric_limits<T>::quiet_NaN());
  }
  int forward(const brc_layer& layer, std::vector<T>& output, std::vector<T>& last,
              std::vector<T>& saved) const {
    void* const of_states[] = {last.data(), last.data() + c.batch * c.hidden_size};
    return brc_forward(&layer, 1, output.data(), of_states, saved.data());
  }

  // Where the backward pass finds what the forward pass left, and writes the gradients.
  brc_gradients describe_gradients(const std::vector<T>& output, const std::vector<T>& saved,
                                   std::vector<std::vector<T>>& gradients) const {
    const Cell& cell = c.of_cell();
    const std::int64_t B = c.batch, I = c.input_size, H = c.hidden_size;
    brc_gradients found{};
    found.output = output.data(), found.saved = saved.data();
    found.grad_output = cotangent_output.data(), found.grad_last = cotangent_last.data();
    found.grad_output_strides[0] = B * H, found.grad_output_strides[1] = H;
    found.grad_output_strides[2] = 1;
    found.grad_input = gradients[0].data(), found.grad_initial_states = gradients[1].data();
    found.grad_input_strides[0] = B * I, found.grad_input_strides[1] = I;
    found.grad_input_strides[2] = 1;
    found.grad_kernel = gradients[2].data(), found.grad_memory = gradients[3].data();
    strides(I, cell.kernel_gates, found.grad_kernel_strides);
    memory_strides(found.grad_memory_strides);
    if (c.with_resets) found.grad_reset_states = gradients[5].data();
    if (c.biases) found.grad_bias = gradients[4].data();
    if (c.biases > cell.kernel_gates)
      found.grad_memory_bias = gradients[4].data() + cell.kernel_gates * H;
    return found;
  }

  // Runs both passes; returns the gradients, in the order of `inputs`.
  std::vector<std::vector<T>> run(int instruction_set, int threads, std::vector<T>& output) const {
    const brc_layer layer = describe(instruction_set, threads);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    output.assign(c.steps * c.batch * c.hidden_size, nan);
    std::vector<T> last = new_last(), saved = new_saved();
    std::vector<std::vector<T>> gradients;
    for (const auto& input : inputs) gradients.emplace_back(input.size(), nan);
    const brc_gradients arguments = describe_gradients(output, saved, gradients);
    if (forward(layer, output, last, saved) || brc_backward(&layer, &arguments))
      throw std::bad_alloc();
    return gradients;
  }
};

}  // namespace brc::tests
