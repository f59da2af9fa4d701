// max_pool: the CPU kernel and the source of the CUDA kernel against its definition in double
// precision. Values are chosen so that float32 arithmetic is exact: the results must be
// bit-identical, including rounding to bfloat16.

#include "max_pool/max_pool.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "max_pool/max_pool_kernel.cuh"
#include "tests/check.h"
#include "tests/every_target.h"
#include "tests/pool_problems.h"
#include "tests/row_arrays.h"

namespace {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::Activation;
using sign_ext::ElementType;
using sign_ext::MaxPoolArgs;
using sign_ext::PoolWindow;

constexpr float kNone = std::numeric_limits<float>::infinity();
constexpr Activation kActivations[] = {
    {-kNone, kNone, 0.0f}, {0.0f, kNone, 0.0f}, {0.0f, 6.0f, 0.0f}, {0.0f, 0.0f, 0.25f}};

struct Problem {
  PoolWindow window;
  std::int64_t n, channels;
  ElementType type;
  Activation activation;
  bool bias, mask;
  int misaligned;  // 0 none, 1 x, 2 y, 3 the index

  std::string text() const {
    return pool_test::text(window) + ", n " + std::to_string(n) + ", channels " +
           std::to_string(channels) + ", type " + std::to_string(static_cast<int>(type)) +
           ", activation " + std::to_string(activation.low) + " " +
           std::to_string(activation.high) + " " + std::to_string(activation.slope) +
           (bias ? ", bias" : "") + (mask ? ", mask" : "") + ", misaligned " +
           std::to_string(misaligned);
  }
};

int bits_of(const PoolWindow& window) {
  const int positions = window.h.kernel * window.w.kernel;
  return positions <= 4 ? 2 : positions <= 16 ? 4 : 8;
}

// Channel c's field of a row of packed positions, bit by bit.
int field(const std::uint8_t* row, std::int64_t channel, int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    const std::int64_t bit = channel * bits + b;
    value |= (row[bit / 8] >> (bit % 8) & 1) << b;
  }
  return value;
}

double defined_activation(double v, const Activation& a) {
  if (std::isnan(v)) return v;
  if (a.slope != 0) return v > 0 ? v : double{a.slope} * v;
  if (v < double{a.low}) v = double{a.low};
  return v > double{a.high} ? double{a.high} : v;
}

bool defined_bit(double y, const Activation& a) {
  if (a.slope != 0) return y > 0;
  return std::isnan(y) || (y > double{a.low} && y < double{a.high});
}

// Fills the arrays, calls run(args) and compares.
void compare(const Problem& problem, std::uint32_t seed,
             const std::function<void(const MaxPoolArgs&)>& run) {
  const PoolWindow& window = problem.window;
  const std::int64_t channels = problem.channels;
  const std::int64_t image = std::int64_t{window.h.size} * window.w.size;
  const std::int64_t out_rows = problem.n * window.h.out * window.w.out;
  const std::int64_t groups = (channels + 7) / 8;
  const int bits = bits_of(window);
  std::mt19937 random(seed);
  Elements x(problem.n * image * channels, problem.type, problem.misaligned == 1 ? 3 : 0);
  Elements y(out_rows * channels, problem.type, problem.misaligned == 2 ? 3 : 0);
  Elements bias(problem.bias ? channels : 0, ElementType::kFloat32);
  Bytes index(static_cast<std::size_t>(out_rows * groups * bits), problem.misaligned == 3 ? 1 : 0);
  Bytes mask(problem.mask ? static_cast<std::size_t>(out_rows * groups) : 0);
  // Half of the problems have no NaN, and some channels are all infinite.
  for (std::int64_t i = 0; i < problem.n * image * channels; ++i) {
    double value = rows_test::draw(random);
    if (std::isnan(value) && seed % 4 < 2) value = 1.0;
    x.set(i, i % channels % 11 == 5 ? -rows_test::kInfinity : value);
  }
  for (std::int64_t c = 0; c < channels && problem.bias; ++c) {
    bias.set(c, static_cast<double>(static_cast<int>(random() % 257) - 128) / 64);
  }

  MaxPoolArgs args{};
  args.type = problem.type;
  args.x = x.data();
  args.y = y.data();
  args.index = index.data();
  args.mask = problem.mask ? mask.data() : nullptr;
  args.bias = problem.bias ? static_cast<const float*>(bias.data()) : nullptr;
  args.activation = problem.activation;
  args.n = problem.n;
  args.channels = channels;
  args.window = window;
  run(args);

  for (std::int64_t row = 0; row < out_rows; ++row) {
    const int ow = static_cast<int>(row % window.w.out);
    const int oh = static_cast<int>(row / window.w.out % window.h.out);
    const std::int64_t first = row / window.w.out / window.h.out * image;
    for (std::int64_t c = 0; c < channels; ++c) {
      double best = 0;
      int winner = -1;
      pool_test::for_each_seen(window, oh, ow, [&](int ih, int iw, int k) {
        const double value = x.get((first + std::int64_t{ih} * window.w.size + iw) * channels + c);
        if (winner < 0 || value > best || std::isnan(value)) {
          best = value;
          winner = k;
        }
      });
      if (problem.bias) best += bias.get(c);
      const double expected =
          rows_test::rounded(defined_activation(best, problem.activation), problem.type);
      const std::string at =
          problem.text() + ": row " + std::to_string(row) + " channel " + std::to_string(c);
      const double value = y.get(row * channels + c);
      CHECK(rows_test::same(value, expected) &&
                (std::isnan(value) || std::signbit(value) == std::signbit(expected)),
            at + ": y is " + std::to_string(value) + ", not " + std::to_string(expected));
      CHECK(field(index.data() + row * groups * bits, c, bits) == winner,
            at + ": the index is wrong");
      CHECK(!problem.mask || rows_test::bit_of(mask.data(), channels, row, c) ==
                                 defined_bit(expected, problem.activation),
            at + ": the mask's bit is wrong");
    }
    for (std::int64_t c = channels; c < groups * 8; ++c) {
      CHECK(field(index.data() + row * groups * bits, c, bits) == 0,
            problem.text() + ": the index has bits set past the last channel");
    }
  }
  CHECK(!problem.mask || rows_test::padding_is_zero(mask.data(), out_rows, channels),
        problem.text() + ": the mask has bits set past the last channel");
  CHECK(x.front_untouched() && y.front_untouched() && index.front_untouched(),
        problem.text() + ": wrote before the start of an array");
}

void compare_all(const std::function<void(const MaxPoolArgs&)>& run) {
  std::uint32_t seed = 1;
  std::vector<PoolWindow> windows = pool_test::undilated_windows();
  for (const PoolWindow& window : pool_test::dilated_windows()) windows.push_back(window);
  for (const PoolWindow& window : windows) {
    for (const std::int64_t channels : {1, 3, 7, 8, 16, 22, 33, 40}) {
      const bool big = window.h.kernel == 16;
      if (big && channels != 8 && channels != 22) continue;
      for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
        const Problem problem{window,
                              1 + seed % 2,
                              channels,
                              type,
                              kActivations[seed % 4],
                              seed % 3 != 0,
                              seed % 5 != 0,
                              static_cast<int>(seed / 2 % 4)};
        compare(problem, seed, run);
        ++seed;
      }
    }
  }
}

void launch_emulated(const MaxPoolArgs& args) {
  sign_ext::max_pool_choose(args, [&](auto kernel) {
    sign_ext::pool_for_each_launch(
        args.n, args.channels, args.window.h.out, args.window.w.out, args.window,
        [&](const sign_ext::PoolGrid& grid, unsigned int blocks) {
          host_cuda::launch(kernel, dim3(blocks), dim3(sign_ext::kPoolThreads), args, grid);
        });
  });
}

TEST(kernel) { compare_all(launch_emulated); }

TEST(cpu_kernel) {
  compare_all(
      [](const MaxPoolArgs& args) { sign_ext::max_pool_cpu(args, 0, args.n * args.window.h.out); });
}

TEST(cpu_kernel_in_pieces) {
  compare_all([](const MaxPoolArgs& args) {
    const std::int64_t rows = args.n * args.window.h.out;
    const std::int64_t cut = (args.channels * 7) % (rows + 1);
    sign_ext::max_pool_cpu(args, cut, rows);
    sign_ext::max_pool_cpu(args, 0, cut);
  });
}

TEST(empty) {
  const PoolWindow window{pool_test::axis(4, 2, 2, 0), pool_test::axis(4, 2, 2, 0)};
  const Problem problem{window, 0, 8, ElementType::kFloat32, kActivations[1], false, true, 0};
  compare(problem, 1, launch_emulated);
  compare(problem, 1, [](const MaxPoolArgs& args) { sign_ext::max_pool_cpu(args, 0, 0); });
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
