// winograd on the CPU, on every vector target, against the direct convolution in double precision.

#include "winograd/winograd.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/every_target.h"

namespace {

using sign_ext::Activation;
using sign_ext::WinogradArgs;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Problem {
  std::int64_t images, height, width, channels, out_height, out_width, out_channels, top, left;
  bool bias, residual;
  Activation activation;
};

// Heap arrays of exact size: AddressSanitizer stops at the first element past one.
std::vector<float> random_values(std::int64_t n, std::mt19937& random, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<float> transformed(const std::vector<float>& g, const Problem& p) {
  const double matrix[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  std::vector<float> weight(static_cast<std::size_t>(16 * p.channels * p.out_channels));
  for (std::int64_t i = 0; i < 4; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) {
      for (std::int64_t pair = 0; pair < p.channels * p.out_channels; ++pair) {
        double sum = 0;
        for (std::int64_t a = 0; a < 3; ++a) {
          for (std::int64_t b = 0; b < 3; ++b) {
            sum +=
                matrix[i][a] * matrix[j][b] *
                static_cast<double>(
                    g[static_cast<std::size_t>((3 * a + b) * p.channels * p.out_channels + pair)]);
          }
        }
        weight[static_cast<std::size_t>((4 * i + j) * p.channels * p.out_channels + pair)] =
            static_cast<float>(sum);
      }
    }
  }
  return weight;
}

double direct(const Problem& p, const std::vector<float>& x, const std::vector<float>& g,
              std::int64_t n, std::int64_t row, std::int64_t column, std::int64_t k) {
  double sum = 0;
  for (std::int64_t a = 0; a < 3; ++a) {
    for (std::int64_t b = 0; b < 3; ++b) {
      const std::int64_t y = row - p.top + a;
      const std::int64_t at = column - p.left + b;
      if (y < 0 || y >= p.height || at < 0 || at >= p.width) continue;
      for (std::int64_t c = 0; c < p.channels; ++c) {
        sum +=
            static_cast<double>(
                x[static_cast<std::size_t>(((n * p.height + y) * p.width + at) * p.channels + c)]) *
            static_cast<double>(
                g[static_cast<std::size_t>(((3 * a + b) * p.channels + c) * p.out_channels + k)]);
      }
    }
  }
  return sum;
}

void compare(const Problem& p, std::uint32_t seed) {
  std::mt19937 random(seed);
  const std::int64_t outputs = p.images * p.out_height * p.out_width * p.out_channels;
  const auto x = random_values(p.images * p.height * p.width * p.channels, random, 1.0f);
  const auto g = random_values(9 * p.channels * p.out_channels, random,
                               1.0f / std::sqrt(9.0f * static_cast<float>(p.channels)));
  const auto bias = random_values(p.out_channels, random, 1.0f);
  const auto residual = random_values(outputs, random, 1.0f);
  const auto weight = transformed(g, p);
  std::vector<float> out(static_cast<std::size_t>(outputs), std::nanf(""));

  WinogradArgs args{};
  args.x = x.data();
  args.weight = weight.data();
  args.bias = p.bias ? bias.data() : nullptr;
  args.residual = p.residual ? residual.data() : nullptr;
  args.out = out.data();
  args.images = p.images;
  args.height = p.height;
  args.width = p.width;
  args.channels = p.channels;
  args.out_height = p.out_height;
  args.out_width = p.out_width;
  args.out_channels = p.out_channels;
  args.pad_top = p.top;
  args.pad_left = p.left;
  args.activation = p.activation;
  const std::int64_t cut = args.chunks() / 3;
  sign_ext::winograd_cpu(args, cut, args.chunks());
  sign_ext::winograd_cpu(args, 0, cut);

  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int64_t k = i % p.out_channels;
    const std::int64_t column = i / p.out_channels % p.out_width;
    const std::int64_t row = i / p.out_channels / p.out_width % p.out_height;
    const std::int64_t n = i / p.out_channels / p.out_width / p.out_height;
    double expected = direct(p, x, g, n, row, column, k);
    if (p.bias) expected += static_cast<double>(bias[static_cast<std::size_t>(k)]);
    if (p.residual) expected += static_cast<double>(residual[static_cast<std::size_t>(i)]);
    const Activation& act = p.activation;
    if (act.slope != 0.0f) {
      expected = expected > 0 ? expected : static_cast<double>(act.slope) * expected;
    } else {
      expected = std::fmin(std::fmax(expected, static_cast<double>(act.low)),
                           static_cast<double>(act.high));
    }
    CHECK(check::near(static_cast<double>(out[static_cast<std::size_t>(i)]), expected, 2e-5),
          "output " + std::to_string(i) + " is " +
              std::to_string(out[static_cast<std::size_t>(i)]) + ", not " +
              std::to_string(expected));
  }
}

TEST(equals_the_direct_convolution) {
  const Activation none{-kInfinity, kInfinity, 0.0f};
  const Activation relu6{0.0f, 6.0f, 0.0f};
  const Activation leaky{0.0f, 0.0f, 0.25f};
  std::uint32_t seed = 1;
  for (const std::int64_t channels : {16, 19, 32}) {
    for (const std::int64_t out_channels : {16, 23, 40, 70}) {
      compare({2, 5, 7, channels, 5, 7, out_channels, 1, 1, true, false, none}, seed++);
      compare({1, 4, 3, channels, 2, 1, out_channels, 0, 0, false, true, relu6}, seed++);
      compare({3, 1, 1, channels, 3, 3, out_channels, 2, 2, true, true, leaky}, seed++);
    }
  }
}

TEST(nan_stays_in_its_tiles) {
  const std::int64_t channels = 16;
  std::vector<float> x(static_cast<std::size_t>(8 * 8 * channels), 1.0f);
  x[0] = std::nanf("");
  const std::vector<float> weight(static_cast<std::size_t>(16 * channels * channels), 0.5f);
  std::vector<float> out(x.size(), 0.0f);
  WinogradArgs args{x.data(),
                    weight.data(),
                    nullptr,
                    nullptr,
                    out.data(),
                    1,
                    8,
                    8,
                    channels,
                    8,
                    8,
                    channels,
                    1,
                    1,
                    Activation{-kInfinity, kInfinity, 0.0f}};
  sign_ext::winograd_cpu(args, 0, args.chunks());
  CHECK(std::isnan(out[0]), "the output that reads it must be NaN");
  CHECK(!std::isnan(out.back()), "the output far from it must not be NaN");
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
