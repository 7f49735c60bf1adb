// Each cell by itself, for every instruction set: the derivative beside a difference quotient of
// the step, with gates that are computed and with those recalled from what was saved.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/arithmetic.h"
#include "tests/check.h"

namespace brc::tests {
namespace {

using Numbers = std::vector<double>;

struct Drawn {
  Numbers arguments, memory, before, cotangents;
};

class CellTest {
 public:
  CellTest(Checks& checks, int set, const CellArithmetic<double>& cell)
      : checks_(checks), set_(set), cell_(cell), lanes_(arithmetic(set).of_double.lanes) {}

  void run() {
    for (unsigned seed = 1; seed <= 50; ++seed) {
      Drawn drawn{draw(cell_.shape->gates, seed), draw(vectors(), seed + 100),
                  draw(cell_.shape->states, seed + 200), draw(cell_.shape->states, seed + 300)};
      if (seed % 3 == 0)  // what is recalled may depend on how large the states are
        for (double& state : drawn.before) state *= seed % 2 ? 6 : 0;
      Numbers saved = numbers(cell_.shape->saved);
      const Numbers after = step(drawn, saved);
      for (const bool recalls : {false, true}) {
        Numbers grad_states = drawn.cotangents, grad_arguments = numbers(cell_.shape->gates);
        cell_.differentiate(recalls, drawn.arguments.data(), drawn.memory.data(),
                            drawn.before.data(), after.data(), saved.data(), grad_states.data(),
                            grad_arguments.data());
        compare(drawn, &Drawn::arguments, grad_arguments,
                recalls ? "recalled argument" : "argument");
        compare(drawn, &Drawn::before, grad_states, recalls ? "recalled state" : "state");
      }
    }
  }

 private:
  // Memory that is no matrix: it has a part in the step of a unit.
  int vectors() const { return cell_.shape->memory_gates; }
  Numbers numbers(int count) const { return Numbers(std::size_t(count * lanes_)); }

  Numbers draw(int count, unsigned seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    Numbers drawn = numbers(count);
    for (double& x : drawn) x = normal(random);
    return drawn;
  }

  Numbers step(const Drawn& drawn, Numbers& saved) const {
    Numbers after = numbers(cell_.shape->states);
    cell_.step(drawn.arguments.data(), drawn.memory.data(), drawn.before.data(), after.data(),
               saved.data());
    return after;
  }

  double loss(const Drawn& drawn, int unit) const {
    Numbers saved = numbers(cell_.shape->saved);
    const Numbers after = step(drawn, saved);
    double sum = 0;
    for (std::size_t i = std::size_t(unit); i < after.size(); i += std::size_t(lanes_))
      sum += drawn.cotangents[i] * after[i];
    return sum;
  }

  void compare(const Drawn& drawn, Numbers Drawn::*of, const Numbers& gradient, const char* name) {
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      constexpr double distance = 1e-6;
      const int unit = int(i) % lanes_;
      Drawn above = drawn, below = drawn;
      (above.*of)[i] += distance;
      (below.*of)[i] -= distance;
      const double quotient = (loss(above, unit) - loss(below, unit)) / (2 * distance);
      checks_.that(std::abs(quotient - gradient[i]) < 1e-7 * (1 + std::abs(quotient)),
                   "set %d, %s: the gradient of %s %d of unit %d is %g, the difference quotient %g",
                   set_, cell_.name, name, int(i) / lanes_, unit, gradient[i], quotient);
    }
  }

  Checks& checks_;
  const int set_;
  const CellArithmetic<double>& cell_;
  const int lanes_;
};

}  // namespace

void test_cells(Checks& checks) {
  for (int set = 0; set < instruction_set_count(); ++set) {
    const Arithmetic<double>& all = arithmetic(set).of_double;
    for (int i = 0; i < all.cell_count; ++i) CellTest(checks, set, all.cells[i]).run();
  }
}

}  // namespace brc::tests
