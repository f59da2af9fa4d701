// depthwise_backward: the CUDA kernels' source on the emulation and the CPU kernel of every target
// against the definition in float64, which scatters where the kernels gather.

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "depthwise/depthwise_backward_kernel.cuh"
#include "tests/check.h"
#include "tests/depthwise_problems.h"
#include "tests/every_target.h"
#include "tests/launches.h"
#include "tests/row_arrays.h"

namespace {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::DepthwiseBackwardArgs;
using sign_ext::DepthwiseSizes;
using sign_ext::ElementType;

enum class Other { kNone, kApart, kOut };

struct Problem {
  DepthwiseSizes sizes;
  ElementType type;
  bool mask, x_mask;
  float slope, x_slope;
  Other other;
  int offset;  // of all arrays, in elements past a 16-byte boundary

  std::string text() const {
    return depthwise_test::text(sizes) + (type == ElementType::kFloat32 ? ", float32" : ", bf16") +
           (mask ? ", mask " + std::to_string(slope) : "") +
           (x_mask ? ", x_mask " + std::to_string(x_slope) : "") + ", other " +
           std::to_string(static_cast<int>(other)) + ", offset " + std::to_string(offset);
  }
};

double pulled_back(double cotangent, bool bit, float slope) {
  if (bit) return cotangent;
  return slope == 0.0f ? 0.0 : cotangent * static_cast<double>(slope);
}

void draw_bits(std::mt19937& random, Bytes& mask) {
  for (std::size_t i = 0; i < mask.size(); ++i) mask.data()[i] = random() & 0xffu;
}

// Fills the arrays, calls convolve(args) and compares with the definition.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const DepthwiseBackwardArgs&)>& convolve) {
  const DepthwiseSizes& s = problem.sizes;
  std::mt19937 random(seed);
  const std::int64_t rows = s.n * s.height * s.width;
  const std::int64_t g_rows = s.n * s.out_height * s.out_width;
  const std::int64_t taps = s.kernel_h * s.kernel_w * s.channels;
  const auto mask_bytes = [&](std::int64_t of_rows) {
    return static_cast<std::size_t>(of_rows * sign_ext::mask_row_bytes(s.channels));
  };
  Elements g(g_rows * s.channels, problem.type, problem.offset);
  Elements out(rows * s.channels, problem.type, problem.offset);
  Elements other(rows * s.channels, problem.type, problem.offset);
  Elements weight(taps, ElementType::kFloat32, problem.offset);
  Bytes mask(mask_bytes(g_rows));
  Bytes x_mask(mask_bytes(rows));
  for (std::int64_t i = 0; i < g_rows * s.channels; ++i) g.set(i, depthwise_test::draw(random));
  for (std::int64_t i = 0; i < taps; ++i) weight.set(i, depthwise_test::draw_weight(random));
  draw_bits(random, mask);
  draw_bits(random, x_mask);
  std::vector<double> expected(static_cast<std::size_t>(rows * s.channels), 0.0);
  for (std::int64_t i = 0; i < rows * s.channels; ++i) {
    const double value = depthwise_test::draw(random);
    if (problem.other == Other::kNone) continue;
    (problem.other == Other::kOut ? out : other).set(i, value);
    expected[static_cast<std::size_t>(i)] = value;
  }
  depthwise_test::for_each_product(s, [&](std::int64_t to, std::int64_t from, std::int64_t tap) {
    const bool bit = !problem.mask || rows_test::bit_of(mask.data(), s.channels, from / s.channels,
                                                        from % s.channels);
    expected[static_cast<std::size_t>(to)] +=
        pulled_back(g.get(from), bit, problem.slope) * weight.get(tap);
  });

  DepthwiseBackwardArgs args{};
  args.sizes = s;
  args.type = problem.type;
  args.g = g.data();
  args.weight = static_cast<const float*>(weight.data());
  if (problem.other == Other::kApart) args.other = other.data();
  if (problem.other == Other::kOut) args.other = out.data();
  args.out = out.data();
  args.mask = problem.mask ? mask.data() : nullptr;
  args.x_mask = problem.x_mask ? x_mask.data() : nullptr;
  args.slope = problem.slope;
  args.x_slope = problem.x_slope;
  convolve(args);

  for (std::int64_t i = 0; i < rows * s.channels; ++i) {
    const bool bit = !problem.x_mask ||
                     rows_test::bit_of(x_mask.data(), s.channels, i / s.channels, i % s.channels);
    const double value = rows_test::rounded(
        pulled_back(expected[static_cast<std::size_t>(i)], bit, problem.x_slope), problem.type);
    CHECK(rows_test::same(out.get(i), value), problem.text() + ": out[" + std::to_string(i) +
                                                  "] is " + std::to_string(out.get(i)) + ", not " +
                                                  std::to_string(value));
  }
  CHECK(out.front_untouched(), problem.text() + ": wrote before the start of out");
}

// Every size in both types, cycling through the combinations of options.
void for_each_problem(const std::function<void(const Problem&, std::uint32_t)>& body) {
  const Other others[] = {Other::kNone, Other::kApart, Other::kOut};
  std::uint32_t seed = 1;
  for (const DepthwiseSizes& sizes : depthwise_test::sizes()) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      body(Problem{sizes, type, seed % 4 != 0, seed % 5 < 3, seed % 7 == 0 ? 0.25f : 0.0f,
                   seed % 2 == 0 ? 0.5f : 0.0f, others[seed % 3],
                   static_cast<int>(seed % 4 == 1 ? seed % 3 : 0)},
           seed);
      ++seed;
    }
  }
}

void launch_emulated(const DepthwiseBackwardArgs& args, std::int64_t most) {
  launches_test::require_launched(sign_ext::depthwise_backward_for_each_launch(
      args, most, launches_test::Emulated{sign_ext::kDepthwiseThreads}));
}

TEST(kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const DepthwiseBackwardArgs& args) {
      launch_emulated(args, sign_ext::kMostLaunchElements);
    });
  });
}

TEST(kernel_with_a_launch_for_each_image) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    if (problem.sizes.n == 1) return;
    compare(problem, seed, [](const DepthwiseBackwardArgs& args) {
      launch_emulated(args, depthwise_test::most_for_one_image(args.sizes));
    });
  });
}

TEST(cpu_kernel) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [](const DepthwiseBackwardArgs& args) {
      sign_ext::depthwise_backward_cpu(args, 0, args.sizes.n * args.sizes.height);
    });
  });
}

TEST(cpu_kernel_in_pieces) {
  for_each_problem([](const Problem& problem, std::uint32_t seed) {
    compare(problem, seed, [&](const DepthwiseBackwardArgs& args) {
      const std::int64_t rows = args.sizes.n * args.sizes.height;
      const std::int64_t cut = seed % rows;
      sign_ext::depthwise_backward_cpu(args, cut, rows);
      sign_ext::depthwise_backward_cpu(args, 0, cut);
    });
  });
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
