// smooth and smooth_backward: the CPU kernels and the source of the CUDA kernels against the
// functions' definitions in double precision.

#include "smooth/smooth.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "smooth/smooth_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/launches.h"
#include "tests/row_arrays.h"

namespace {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::ElementType;
using sign_ext::SmoothArgs;
using sign_ext::SmoothBackwardArgs;
using sign_ext::SmoothFunction;

struct Exact {
  double value;
  double derivative;
};

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

Exact exact(SmoothFunction function, double x) {
  switch (function) {
    case SmoothFunction::kSilu: {
      const double s = logistic(x);
      return {x * s, s + x * s * (1 - s)};
    }
    case SmoothFunction::kGelu: {
      const double phi = 0.5 * std::erfc(-x / std::sqrt(2.0));
      return {x * phi, phi + x * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0))};
    }
    case SmoothFunction::kGeluTanh: {
      const double slope = std::sqrt(2 / std::acos(-1.0));
      const double t = std::tanh(slope * (x + 0.044715 * x * x * x));
      return {0.5 * x * (1 + t),
              0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope * (1 + 3 * 0.044715 * x * x)};
    }
    case SmoothFunction::kHardswish:
      return {x * std::min(std::max(x + 3, 0.0), 6.0) / 6, x <= -3  ? 0.0
                                                           : x >= 3 ? 1.0
                                                                    : x / 3 + 0.5};
    case SmoothFunction::kHardsigmoid:
      return {std::min(std::max(x + 3, 0.0), 6.0) / 6, x > -3 && x < 3 ? 1.0 / 6 : 0.0};
    case SmoothFunction::kMish: {
      const double t = std::tanh(std::log1p(std::exp(x)));
      return {x * t, t + x * logistic(x) * (1 - t * t)};
    }
  }
  return {0, 0};
}

double steps_in_one(SmoothFunction function) {
  return function == SmoothFunction::kHardswish ? 24576.0 : 49152.0;
}

double stored(SmoothFunction function, std::int16_t whole, std::uint8_t fraction) {
  return (whole + fraction / 256.0) / steps_in_one(function) + 0.5;
}

struct Problem {
  std::int64_t count;
  ElementType type;
  SmoothFunction function;
  bool fine, other, in_place;
  int misaligned;  // elements past a 16-byte boundary

  std::string text() const {
    return std::to_string(count) + " elements, type " + std::to_string(static_cast<int>(type)) +
           ", function " + std::to_string(static_cast<int>(function)) + (fine ? ", fine" : "") +
           (other ? ", other" : "") + (in_place ? ", in place" : "") + ", misaligned " +
           std::to_string(misaligned);
  }
};

// Runs both directions through run and run_backward, and compares.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const SmoothArgs&)>& run,
             const std::function<void(const SmoothBackwardArgs&)>& run_backward) {
  const std::int64_t n = problem.count;
  const auto size = static_cast<std::size_t>(n);
  const bool narrow = problem.type == ElementType::kBFloat16;
  std::mt19937 random(seed);
  Elements x(n, problem.type, problem.misaligned);
  Elements fresh(n, problem.type, problem.misaligned);
  Elements& out = problem.in_place ? x : fresh;
  Bytes whole(2 * size, static_cast<std::size_t>(2 * problem.misaligned));
  Bytes fraction(problem.fine ? size : 0, static_cast<std::size_t>(problem.misaligned));
  std::vector<Exact> expected;
  for (std::int64_t i = 0; i < n; ++i) {
    // Eighths, exact in both types; some far outside.
    const double eighths = static_cast<int>(random() % 129) - 64;
    const double v = eighths / 8 * (random() % 16 == 0 ? 4 : 1);
    x.set(i, v);
    expected.push_back(exact(problem.function, v));
  }
  SmoothArgs args{};
  args.x = x.data();
  args.out = out.data();
  args.derivative = reinterpret_cast<std::int16_t*>(whole.data());
  args.fraction = problem.fine ? fraction.data() : nullptr;
  args.type = problem.type;
  args.function = problem.function;
  args.count = n;
  run(args);
  const double most = (problem.fine ? 1.0 / 256 : 0.5) / steps_in_one(problem.function) + 1e-6;
  std::vector<double> derivatives;
  for (std::int64_t i = 0; i < n; ++i) {
    const Exact& wanted = expected[static_cast<std::size_t>(i)];
    const double tolerance = (narrow ? 1.0 / 256 : 3e-6) * (1 + std::fabs(wanted.value));
    CHECK(check::near(out.get(i), wanted.value, tolerance),
          problem.text() + ": value " + std::to_string(i) + " is " + std::to_string(out.get(i)) +
              ", not " + std::to_string(wanted.value));
    std::int16_t steps;
    std::memcpy(&steps, whole.data() + 2 * i, sizeof(steps));
    derivatives.push_back(
        stored(problem.function, steps, problem.fine ? fraction.data()[i] : std::uint8_t{0}));
    CHECK(check::near(derivatives.back(), wanted.derivative, most),
          problem.text() + ": derivative " + std::to_string(i) + " is " +
              std::to_string(derivatives.back()) + ", not " + std::to_string(wanted.derivative));
  }

  Elements g(n, problem.type, problem.misaligned);
  Elements other(problem.other ? n : 0, problem.type, problem.misaligned);
  Elements& target = problem.in_place ? g : problem.other ? other : fresh;
  std::vector<double> products;
  for (std::int64_t i = 0; i < n; ++i) {
    g.set(i, static_cast<double>(static_cast<int>(random() % 129) - 64) / 8);
    double v = g.get(i) * derivatives[static_cast<std::size_t>(i)];
    if (problem.other) {
      other.set(i, static_cast<double>(static_cast<int>(random() % 129) - 64) / 8);
      v += other.get(i);
    }
    products.push_back(v);
  }
  SmoothBackwardArgs backward{};
  backward.g = g.data();
  backward.derivative = args.derivative;
  backward.fraction = args.fraction;
  backward.out = target.data();
  backward.other = problem.other ? other.data() : nullptr;
  backward.type = problem.type;
  backward.function = problem.function;
  backward.count = n;
  run_backward(backward);
  for (std::int64_t i = 0; i < n; ++i) {
    const double wanted = products[static_cast<std::size_t>(i)];
    const double tolerance = (narrow ? 1.0 / 256 : 1e-6) * (1 + std::fabs(wanted)) + 2e-6;
    CHECK(check::near(target.get(i), wanted, tolerance),
          problem.text() + ": cotangent " + std::to_string(i) + " is " +
              std::to_string(target.get(i)) + ", not " + std::to_string(wanted));
  }
  CHECK(out.front_untouched() && target.front_untouched() && whole.front_untouched(),
        problem.text() + ": wrote before the start of an array");
}

void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  std::uint32_t seed = 1;
  for (const std::int64_t count : {0, 1, 7, 8, 63, 64, 65, 200, 1003}) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      for (int function = 0; function < sign_ext::kSmoothFunctions; ++function) {
        for (const bool fine : {false, true}) {
          std::mt19937 choice(seed);
          body({count, type, static_cast<SmoothFunction>(function), fine, choice() % 2 == 0,
                choice() % 2 == 0, static_cast<int>(choice() % 2 * 3)},
               seed);
          ++seed;
        }
      }
    }
  }
}

TEST(cpu_kernels) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(
        problem, seed, [](const SmoothArgs& args) { sign_ext::smooth_cpu(args, 0, args.count); },
        [](const SmoothBackwardArgs& args) { sign_ext::smooth_backward_cpu(args, 0, args.count); });
  });
}

TEST(cpu_kernels_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    const std::int64_t cut = problem.count == 0 ? 0 : seed % problem.count;
    compare(
        problem, seed,
        [cut](const SmoothArgs& args) {
          sign_ext::smooth_cpu(args, cut, args.count);
          sign_ext::smooth_cpu(args, 0, cut);
        },
        [cut](const SmoothBackwardArgs& args) {
          sign_ext::smooth_backward_cpu(args, cut, args.count);
          sign_ext::smooth_backward_cpu(args, 0, cut);
        });
  });
}

// In one launch, and in several.
TEST(kernels) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    const std::int64_t most = seed % 2 == 0 ? 48 : sign_ext::kMostLaunchElements;
    compare(
        problem, seed,
        [most](const SmoothArgs& args) {
          sign_ext::smooth_for_each_launch(args, most, launches_test::Emulated{});
        },
        [most](const SmoothBackwardArgs& args) {
          sign_ext::smooth_backward_for_each_launch(args, most, launches_test::Emulated{});
        });
  });
}

TEST(launches_cover_every_element_once) {
  constexpr std::int64_t kMost = sign_ext::kMostLaunchElements;
  for (const std::int64_t count :
       {std::int64_t{0}, std::int64_t{5}, kMost - 1, kMost, kMost + 9, 5 * kMost + 4}) {
    launches_test::Ranges ranges;
    sign_ext::smooth_for_each_part(count, kMost, [&](std::int64_t first, std::int64_t part) {
      CHECK(part <= kMost && first % 8 == 0 && (part % 8 == 0 || part < 8), "a launch's range");
      ranges.emplace_back(first, part);
    });
    launches_test::require_covered(ranges, count, std::to_string(count) + " elements");
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
