// max_pool_backward: the CPU kernel and the source of the CUDA kernel against its definition in
// double precision, window by window. Sums of a few eighths are exact in float32: the results must
// be bit-identical, including rounding to bfloat16.

#include "max_pool/max_pool_backward.h"

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "max_pool/max_pool_backward_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/pool_backward_checks.h"

namespace {

using pool_test::Other;
using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::ElementType;
using sign_ext::MaxPoolBackwardArgs;
using sign_ext::PoolWindow;

struct Problem {
  PoolWindow window;
  std::int64_t n, channels;
  ElementType type;
  bool mask;
  float slope;
  Other other;
  bool x_mask;
  float x_slope;
  int misaligned;  // 0 none, 1 g, 2 out and other, 3 the index

  std::string text() const {
    return pool_test::text(window) + ", n " + std::to_string(n) + ", channels " +
           std::to_string(channels) + ", type " + std::to_string(static_cast<int>(type)) +
           (mask ? ", mask" : "") + ", slope " + std::to_string(slope) + ", other " +
           std::to_string(static_cast<int>(other)) + (x_mask ? ", x_mask" : "") + ", x_slope " +
           std::to_string(x_slope) + ", misaligned " + std::to_string(misaligned);
  }
};

// Fills the arrays, calls run(args) and compares.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const MaxPoolBackwardArgs&)>& run) {
  const PoolWindow& window = problem.window;
  const std::int64_t channels = problem.channels;
  const std::int64_t image = std::int64_t{window.h.size} * window.w.size;
  const std::int64_t windows = problem.n * window.h.out * window.w.out;
  const std::int64_t groups = (channels + 7) / 8;
  const int positions = window.h.kernel * window.w.kernel;
  const int bits = positions <= 4 ? 2 : positions <= 16 ? 4 : 8;
  std::mt19937 random(seed);
  Elements g(windows * channels, problem.type, problem.misaligned == 1 ? 3 : 0);
  Bytes index(static_cast<std::size_t>(windows * groups * bits), problem.misaligned == 3 ? 1 : 0);
  Bytes mask(problem.mask ? static_cast<std::size_t>(windows * groups) : 0);
  std::memset(index.data(), 0, index.size());
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask.data()[i] = static_cast<std::uint8_t>(random());
  }
  pool_test::Cotangent cotangent(problem.n * image, channels, problem.type, problem.other,
                                 problem.x_mask, problem.x_slope, problem.misaligned == 2 ? 3 : 0,
                                 random);

  // For each channel, every window names a random one of the positions that it covers.
  std::vector<double> value(static_cast<std::size_t>(problem.n * image * channels), 0.0);
  for (std::int64_t row = 0; row < windows; ++row) {
    std::vector<std::pair<std::int64_t, int>> seen;  // position of the image, of the window
    pool_test::for_each_seen(window, static_cast<int>(row / window.w.out % window.h.out),
                             static_cast<int>(row % window.w.out), [&](int ih, int iw, int k) {
                               seen.emplace_back(std::int64_t{ih} * window.w.size + iw, k);
                             });
    const std::int64_t first = row / window.w.out / window.h.out * image;
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto& [position, k] = seen[random() % seen.size()];
      for (int b = 0; b < bits; ++b) {
        const std::int64_t bit = c * bits + b;
        auto& byte = index.data()[row * groups * bits + bit / 8];
        byte = static_cast<std::uint8_t>(byte | (k >> b & 1) << (bit % 8));
      }
      g.set(row * channels + c, rows_test::draw(random));
      double cotangent_of_row = g.get(row * channels + c);
      if (problem.mask && !rows_test::bit_of(mask.data(), channels, row, c)) {
        cotangent_of_row = problem.slope == 0.0f ? 0.0 : double{problem.slope} * cotangent_of_row;
      }
      value[static_cast<std::size_t>((first + position) * channels + c)] += cotangent_of_row;
    }
  }

  MaxPoolBackwardArgs args{};
  args.type = problem.type;
  args.g = g.data();
  args.index = index.data();
  args.mask = problem.mask ? mask.data() : nullptr;
  args.out = cotangent.out();
  args.other = cotangent.other();
  args.x_mask = cotangent.x_mask();
  args.slope = problem.slope;
  args.x_slope = problem.x_slope;
  args.n = problem.n;
  args.channels = channels;
  args.window = window;
  run(args);

  const std::vector<double> exact(value.size(), 0.0);
  cotangent.check_against(value, exact, 0.0, problem.text());
}

void compare_all(const std::function<void(const MaxPoolBackwardArgs&)>& run) {
  std::uint32_t seed = 1;
  std::vector<PoolWindow> windows = pool_test::undilated_windows();
  for (const PoolWindow& window : pool_test::dilated_windows()) windows.push_back(window);
  for (const PoolWindow& window : windows) {
    for (const std::int64_t channels : {1, 3, 7, 8, 16, 22, 33, 40}) {
      if (window.h.kernel == 16 && channels != 8 && channels != 22) continue;
      for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
        const Problem problem{window,
                              1 + seed % 2,
                              channels,
                              type,
                              seed % 3 != 0,
                              seed % 4 < 2 ? 0.0f : 0.25f,
                              static_cast<Other>(seed % 5 % 3),
                              seed % 7 < 4,
                              seed % 8 < 4 ? 0.0f : 0.5f,
                              static_cast<int>(seed / 3 % 4)};
        compare(problem, seed, run);
        ++seed;
      }
    }
  }
}

void launch_emulated(const MaxPoolBackwardArgs& args) {
  sign_ext::max_pool_backward_choose(args, [&](auto kernel) {
    sign_ext::pool_for_each_launch(
        args.n, args.channels, args.window.h.size, args.window.w.size, args.window,
        [&](const sign_ext::PoolGrid& grid, unsigned int blocks) {
          host_cuda::launch(kernel, dim3(blocks), dim3(sign_ext::kPoolThreads), args, grid);
        });
  });
}

TEST(kernel) { compare_all(launch_emulated); }

TEST(cpu_kernel) {
  compare_all([](const MaxPoolBackwardArgs& args) {
    sign_ext::max_pool_backward_cpu(args, 0, args.n * args.window.h.size);
  });
}

TEST(cpu_kernel_in_pieces) {
  compare_all([](const MaxPoolBackwardArgs& args) {
    const std::int64_t rows = args.n * args.window.h.size;
    const std::int64_t cut = (args.channels * 7) % (rows + 1);
    sign_ext::max_pool_backward_cpu(args, cut, rows);
    sign_ext::max_pool_backward_cpu(args, 0, cut);
  });
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
