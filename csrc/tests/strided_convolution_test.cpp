// strided_convolution on the CPU, on every vector target, against its definition in double
// precision.

#include "strided_convolution/strided_convolution.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/every_target.h"

namespace {

using sign_ext::Activation;
using sign_ext::StridedConvolutionArgs;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Heap arrays of exact size: AddressSanitizer stops at the first element past one.
std::vector<float> random_values(std::int64_t n, std::mt19937& random, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

double at(const float* values, std::int64_t i) { return static_cast<double>(values[i]); }

// The input's position that a tap reads, or -1 where there is none.
std::int64_t source(bool transposed, std::int64_t out, std::int64_t tap, std::int64_t stride,
                    std::int64_t pad, std::int64_t size) {
  std::int64_t i = out * stride - pad + tap;
  if (transposed) {
    i = out + pad - tap;
    if (i < 0 || i % stride != 0) return -1;
    i /= stride;
  }
  return i < size ? i : -1;
}

double sum_of_taps(const StridedConvolutionArgs& p, std::int64_t n, std::int64_t row,
                   std::int64_t column, std::int64_t k) {
  double sum = 0;
  for (std::int64_t a = 0; a < p.kernel_h; ++a) {
    for (std::int64_t b = 0; b < p.kernel_w; ++b) {
      const std::int64_t y = source(p.transposed, row, a, p.stride_h, p.pad_top, p.height);
      const std::int64_t x = source(p.transposed, column, b, p.stride_w, p.pad_left, p.width);
      if (y < 0 || x < 0) continue;
      for (std::int64_t c = 0; c < p.channels; ++c) {
        sum += at(p.x, ((n * p.height + y) * p.width + x) * p.channels + c) *
               at(p.weight, ((a * p.kernel_w + b) * p.channels + c) * p.out_channels + k);
      }
    }
  }
  return sum;
}

// Fills in the arrays, runs in two parts and compares.
void compare(StridedConvolutionArgs p, bool bias, bool residual, std::uint32_t seed) {
  std::mt19937 random(seed);
  const std::int64_t outputs = p.images * p.out_height * p.out_width * p.out_channels;
  const auto x = random_values(p.images * p.height * p.width * p.channels, random, 1.0f);
  const auto weight =
      random_values(p.kernel_h * p.kernel_w * p.channels * p.out_channels, random, 0.1f);
  const auto biases = random_values(p.out_channels, random, 1.0f);
  const auto residuals = random_values(outputs, random, 1.0f);
  std::vector<float> out(static_cast<std::size_t>(outputs), std::nanf(""));
  p.x = x.data();
  p.weight = weight.data();
  p.bias = bias ? biases.data() : nullptr;
  p.residual = residual ? residuals.data() : nullptr;
  p.out = out.data();
  const std::int64_t cut = p.rows() / 3;
  sign_ext::strided_convolution_cpu(p, cut, p.rows());
  sign_ext::strided_convolution_cpu(p, 0, cut);

  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int64_t k = i % p.out_channels;
    const std::int64_t column = i / p.out_channels % p.out_width;
    const std::int64_t row = i / p.out_channels / p.out_width % p.out_height;
    const std::int64_t n = i / p.out_channels / p.out_width / p.out_height;
    double expected = sum_of_taps(p, n, row, column, k);
    if (bias) expected += at(biases.data(), k);
    if (residual) expected += at(residuals.data(), i);
    const Activation& act = p.activation;
    if (act.slope != 0.0f) {
      expected = expected > 0 ? expected : static_cast<double>(act.slope) * expected;
    } else {
      expected = std::fmin(std::fmax(expected, static_cast<double>(act.low)),
                           static_cast<double>(act.high));
    }
    CHECK(check::near(at(out.data(), i), expected, 2e-5), "output " + std::to_string(i) + " is " +
                                                              std::to_string(at(out.data(), i)) +
                                                              ", not " + std::to_string(expected));
  }
}

TEST(equals_its_definition_in_both_directions) {
  const Activation none{-kInfinity, kInfinity, 0.0f};
  const Activation relu6{0.0f, 6.0f, 0.0f};
  const Activation leaky{0.0f, 0.0f, 0.25f};
  std::uint32_t seed = 1;
  for (const bool transposed : {false, true}) {
    for (const std::int64_t out_channels : {1, 16, 23, 32, 40, 64, 101}) {
      StridedConvolutionArgs p{};
      p.transposed = transposed;
      p.out_channels = out_channels;
      const auto with = [&](std::int64_t channels, std::int64_t size, std::int64_t out,
                            std::int64_t kernel, std::int64_t stride, std::int64_t pad,
                            Activation activation) {
        p.images = 2;
        p.channels = channels;
        p.height = size + 1;
        p.width = size;
        p.out_height = out;
        p.out_width = out + 1;
        p.kernel_h = kernel;
        p.kernel_w = kernel + 1;
        p.stride_h = stride;
        p.stride_w = stride;
        p.pad_top = pad;
        p.pad_left = pad + 1;
        p.activation = activation;
        compare(p, seed % 2 == 0, seed % 3 == 0, seed);
        ++seed;
      };
      with(5, 7, transposed ? 14 : 4, 3, 2, 1, none);
      with(3, 27, transposed ? 29 : 14, 2, 2, 0, relu6);
      with(1, 2, transposed ? 9 : 3, 4, 3, 3, leaky);
      with(4, 3, 3, 3, 1, 1, none);
      with(2, 1, 1, 1, 2, 0, none);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run_on_every_target(argc, argv); }
