// depthwise: the CUDA kernels' source on the emulation and the CPU kernel of every target against
// the definition in float64.

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "depthwise/depthwise_kernel.cuh"
#include "tests/check.h"
#include "tests/depthwise_problems.h"
#include "tests/every_target.h"
#include "tests/launches.h"
#include "tests/row_arrays.h"

namespace {

using launches_test::require_launched;
using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::Activation;
using sign_ext::DepthwiseArgs;
using sign_ext::DepthwiseSizes;
using sign_ext::ElementType;

constexpr auto kInfinity = static_cast<float>(rows_test::kInfinity);

struct Problem {
  DepthwiseSizes sizes;
  ElementType type;
  Activation activation;
  bool bias, mask;
  int offset;  // of all arrays, in elements past a 16-byte boundary

  std::string text() const {
    return depthwise_test::text(sizes) + (type == ElementType::kFloat32 ? ", float32" : ", bf16") +
           ", clamp " + std::to_string(activation.low) + " " + std::to_string(activation.high) +
           ", slope " + std::to_string(activation.slope) + (bias ? ", bias" : "") +
           (mask ? ", mask" : "") + ", offset " + std::to_string(offset);
  }
};

double activated(double v, const Activation& a) {
  if (a.slope != 0) return v > 0 ? v : static_cast<double>(a.slope) * v;
  if (v < a.low) return static_cast<double>(a.low);
  if (v > a.high) return static_cast<double>(a.high);
  return v;
}

bool passes(double y, const Activation& a) {
  if (a.slope != 0) return y > 0;
  return std::isnan(y) || (y > a.low && y < a.high);
}

// Fills the arrays, calls convolve(args) and compares with the definition.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const DepthwiseArgs&)>& convolve) {
  const DepthwiseSizes& s = problem.sizes;
  std::mt19937 random(seed);
  const std::int64_t in = s.n * s.height * s.width * s.channels;
  const std::int64_t rows = s.n * s.out_height * s.out_width;
  const std::int64_t taps = s.kernel_h * s.kernel_w * s.channels;
  Elements x(in, problem.type, problem.offset);
  Elements out(rows * s.channels, problem.type, problem.offset);
  Elements weight(taps, ElementType::kFloat32, problem.offset);
  Elements bias(s.channels, ElementType::kFloat32, problem.offset);
  Bytes mask(static_cast<std::size_t>(rows * sign_ext::mask_row_bytes(s.channels)));
  for (std::int64_t i = 0; i < in; ++i) x.set(i, depthwise_test::draw(random));
  for (std::int64_t i = 0; i < taps; ++i) weight.set(i, depthwise_test::draw_weight(random));
  for (std::int64_t c = 0; c < s.channels; ++c) bias.set(c, depthwise_test::draw_weight(random));

  std::vector<double> expected(static_cast<std::size_t>(rows * s.channels));
  for (std::int64_t i = 0; i < rows * s.channels; ++i) {
    expected[static_cast<std::size_t>(i)] = problem.bias ? bias.get(i % s.channels) : 0;
  }
  depthwise_test::for_each_product(s, [&](std::int64_t from, std::int64_t to, std::int64_t tap) {
    expected[static_cast<std::size_t>(to)] += x.get(from) * weight.get(tap);
  });

  DepthwiseArgs args{};
  args.sizes = s;
  args.type = problem.type;
  args.x = x.data();
  args.weight = static_cast<const float*>(weight.data());
  args.bias = problem.bias ? static_cast<const float*>(bias.data()) : nullptr;
  args.out = out.data();
  args.mask = problem.mask ? mask.data() : nullptr;
  args.activation = problem.activation;
  convolve(args);

  for (std::int64_t i = 0; i < rows * s.channels; ++i) {
    const double y = rows_test::rounded(
        activated(expected[static_cast<std::size_t>(i)], problem.activation), problem.type);
    CHECK(rows_test::same(out.get(i), y), problem.text() + ": out[" + std::to_string(i) + "] is " +
                                              std::to_string(out.get(i)) + ", not " +
                                              std::to_string(y));
    if (!problem.mask) continue;
    CHECK(rows_test::bit_of(mask.data(), s.channels, i / s.channels, i % s.channels) ==
              passes(y, problem.activation),
          problem.text() + ": bit " + std::to_string(i) + " of value " + std::to_string(y));
  }
  CHECK(!problem.mask || rows_test::padding_is_zero(mask.data(), rows, s.channels),
        problem.text() + ": bits past the last channel");
  CHECK(out.front_untouched(), problem.text() + ": wrote before the start of out");
}

// Every size in both types, cycling through the activations.
void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  const Activation activations[] = {{-kInfinity, kInfinity, 0.0f},
                                    {0.0f, kInfinity, 0.0f},
                                    {0.0f, 6.0f, 0.0f},
                                    {0.0f, 0.0f, 0.25f},
                                    {-0.5f, 1.0f, 0.0f}};
  std::uint32_t seed = 1;
  for (const DepthwiseSizes& sizes : depthwise_test::sizes()) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      body(Problem{sizes, type, activations[seed % 5], seed % 3 != 0, seed % 7 != 0,
                   static_cast<int>(seed % 4 == 0 ? seed % 3 : 0)},
           seed);
      ++seed;
    }
  }
}

void launch_emulated(const DepthwiseArgs& args, std::int64_t most) {
  require_launched(sign_ext::depthwise_for_each_launch(
      args, most, launches_test::Emulated{sign_ext::kDepthwiseThreads}));
}

TEST(kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const DepthwiseArgs& args) {
      launch_emulated(args, sign_ext::kMostLaunchElements);
    });
  });
}

TEST(kernel_with_a_launch_for_each_image) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    if (problem.sizes.n == 1) return;
    compare(problem, seed, [](const DepthwiseArgs& args) {
      launch_emulated(args, depthwise_test::most_for_one_image(args.sizes));
    });
  });
}

// All windows lie in the padding: out is the activated bias.
TEST(kernel_of_an_image_without_rows) {
  for (const std::int64_t kernel : {3, 2}) {
    const DepthwiseSizes sizes{2, 0, 5, 9, 2, 3, kernel, kernel, 1, 1, 4, 1, 1, 1};
    compare(
        Problem{sizes, ElementType::kFloat32, {0.0f, 6.0f, 0.0f}, true, true, 0}, 3,
        [](const DepthwiseArgs& args) { launch_emulated(args, sign_ext::kMostLaunchElements); });
  }
}

TEST(cpu_kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const DepthwiseArgs& args) {
      sign_ext::depthwise_cpu(args, 0, args.sizes.n * args.sizes.out_height);
    });
  });
}

TEST(cpu_kernel_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [&](const DepthwiseArgs& args) {
      const std::int64_t rows = args.sizes.n * args.sizes.out_height;
      const std::int64_t cut = seed % rows;
      sign_ext::depthwise_cpu(args, cut, rows);
      sign_ext::depthwise_cpu(args, 0, cut);
    });
  });
}

TEST(launches_cover_every_image_once) {
  constexpr std::int64_t kMost = sign_ext::kMostLaunchElements;
  DepthwiseSizes s{1, 112, 112, 33, 56, 56, 3, 3, 2, 2, 1, 1, 1, 1};
  for (const std::int64_t n : {1, 128, 5000, 1 << 20}) {
    s.n = n;
    launches_test::Ranges ranges;
    const auto part = [&](std::int64_t first, std::int64_t images) {
      CHECK(images * s.height * s.width * s.channels <= kMost, "too many elements");
      ranges.emplace_back(first, images);
    };
    require_launched(sign_ext::depthwise_for_each_part(s, kMost, part));
    launches_test::require_covered(ranges, n, std::to_string(n) + " images");
  }
  const auto none = [](std::int64_t, std::int64_t) { CHECK(false, "launched"); };
  s.channels = 1 << 20;
  launches_test::require_refused(sign_ext::depthwise_for_each_part(s, kMost, none), "2^31");
  s.channels = 1;
  s.pad_left = 1 << 29;
  launches_test::require_refused(sign_ext::depthwise_for_each_part(s, kMost, none), "2^30");
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
