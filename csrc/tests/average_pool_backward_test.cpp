// average_pool_backward: the CPU kernel and the source of the CUDA kernel against its definition in
// double precision, window by window.

#include "average_pool_backward/average_pool_backward.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "average_pool_backward/average_pool_backward_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/pool_backward_checks.h"

namespace {

using pool_test::Other;
using rows_test::Elements;
using sign_ext::AveragePoolBackwardArgs;
using sign_ext::ElementType;
using sign_ext::PoolWindow;

struct Problem {
  PoolWindow window;
  std::int64_t n, channels;
  ElementType type;
  bool include_pad;
  int divisor;
  Other other;
  bool x_mask;
  float x_slope;
  int misaligned;  // 0 none, 1 g, 2 out and other

  std::string text() const {
    return pool_test::text(window) + ", n " + std::to_string(n) + ", channels " +
           std::to_string(channels) + ", type " + std::to_string(static_cast<int>(type)) +
           (include_pad ? ", with padding" : "") + ", divisor " + std::to_string(divisor) +
           ", other " + std::to_string(static_cast<int>(other)) + (x_mask ? ", x_mask" : "") +
           ", x_slope " + std::to_string(x_slope) + ", misaligned " + std::to_string(misaligned);
  }
};

// Fills the arrays, calls run(args) and compares.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const AveragePoolBackwardArgs&)>& run) {
  const PoolWindow& window = problem.window;
  const std::int64_t channels = problem.channels;
  const std::int64_t image = std::int64_t{window.h.size} * window.w.size;
  const std::int64_t windows = problem.n * window.h.out * window.w.out;
  std::mt19937 random(seed);
  Elements g(windows * channels, problem.type, problem.misaligned == 1 ? 3 : 0);
  pool_test::Cotangent cotangent(problem.n * image, channels, problem.type, problem.other,
                                 problem.x_mask, problem.x_slope, problem.misaligned == 2 ? 3 : 0,
                                 random);
  const auto size = static_cast<std::size_t>(problem.n * image * channels);
  std::vector<double> value(size, 0.0);
  std::vector<double> magnitude(size, 0.0);
  for (std::int64_t row = 0; row < windows; ++row) {
    const int oh = static_cast<int>(row / window.w.out % window.h.out);
    const int ow = static_cast<int>(row % window.w.out);
    // The positions that count: in the image, or in the image with its padding on all four sides.
    const int border_h = problem.include_pad ? window.h.padding : 0;
    const int border_w = problem.include_pad ? window.w.padding : 0;
    double divisor = 0;
    for (int kh = 0; kh < window.h.kernel; ++kh) {
      for (int kw = 0; kw < window.w.kernel; ++kw) {
        const int ih = oh * window.h.stride - window.h.padding + kh;
        const int iw = ow * window.w.stride - window.w.padding + kw;
        if (ih >= -border_h && ih < window.h.size + border_h && iw >= -border_w &&
            iw < window.w.size + border_w) {
          ++divisor;
        }
      }
    }
    if (problem.divisor != 0) divisor = problem.divisor;
    const std::int64_t first = row / window.w.out / window.h.out * image;
    for (std::int64_t c = 0; c < channels; ++c) {
      g.set(row * channels + c, rows_test::draw(random));
      const double share = g.get(row * channels + c) / divisor;
      pool_test::for_each_seen(window, oh, ow, [&](int ih, int iw, int) {
        const auto at = static_cast<std::size_t>(
            (first + std::int64_t{ih} * window.w.size + iw) * channels + c);
        value[at] += share;
        magnitude[at] += std::fabs(share);
      });
    }
  }

  AveragePoolBackwardArgs args{};
  args.type = problem.type;
  args.g = g.data();
  args.out = cotangent.out();
  args.other = cotangent.other();
  args.x_mask = cotangent.x_mask();
  args.x_slope = problem.x_slope;
  args.count_include_pad = problem.include_pad;
  args.divisor = problem.divisor;
  args.n = problem.n;
  args.channels = channels;
  args.window = window;
  run(args);

  // An infinity has no magnitude to compare with; there the sum must match exactly.
  for (double& one : magnitude) one = std::isfinite(one) ? one : 0.0;
  cotangent.check_against(value, magnitude, 1e-6, problem.text());
}

void compare_all(const std::function<void(const AveragePoolBackwardArgs&)>& run) {
  std::uint32_t seed = 1;
  for (const PoolWindow& window : pool_test::undilated_windows()) {
    for (const std::int64_t channels : {1, 3, 7, 8, 16, 22, 33, 40, 70}) {
      if (window.h.kernel == 16 && channels != 8 && channels != 22) continue;
      for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
        const Problem problem{window,
                              1 + seed % 2,
                              channels,
                              type,
                              seed % 3 != 0,
                              seed % 5 == 0 ? 7 : 0,
                              static_cast<Other>(seed % 5 % 3),
                              seed % 7 < 4,
                              seed % 8 < 4 ? 0.0f : 0.5f,
                              static_cast<int>(seed / 3 % 3)};
        compare(problem, seed, run);
        ++seed;
      }
    }
  }
}

void launch_emulated(const AveragePoolBackwardArgs& args) {
  sign_ext::average_pool_backward_choose(args, [&](auto kernel) {
    sign_ext::pool_for_each_launch(
        args.n, args.channels, args.window.h.size, args.window.w.size, args.window,
        [&](const sign_ext::PoolGrid& grid, unsigned int blocks) {
          host_cuda::launch(kernel, dim3(blocks), dim3(sign_ext::kPoolThreads), args, grid);
        });
  });
}

TEST(kernel) { compare_all(launch_emulated); }

TEST(cpu_kernel) {
  compare_all([](const AveragePoolBackwardArgs& args) {
    sign_ext::average_pool_backward_cpu(args, 0, args.n * args.window.h.size);
  });
}

TEST(cpu_kernel_in_pieces) {
  compare_all([](const AveragePoolBackwardArgs& args) {
    const std::int64_t rows = args.n * args.window.h.size;
    const std::int64_t cut = (args.channels * 7) % (rows + 1);
    sign_ext::average_pool_backward_cpu(args, cut, rows);
    sign_ext::average_pool_backward_cpu(args, 0, cut);
  });
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
