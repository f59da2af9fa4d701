// A block of MobileNetV2 with values whose sums are exact, its definition in float64, and the
// kernel's arrays, for csrc/tests/inverted_residual_test.cpp to compare.

#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "inverted_residual/inverted_residual_plan.h"
#include "tests/row_arrays.h"

namespace block_test {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::ElementType;
using sign_ext::block::Args;
using sign_ext::block::Bounds;
using sign_ext::block::kChunk;
using sign_ext::block::Precision;
using sign_ext::block::Sizes;

constexpr auto kInfinity = static_cast<float>(rows_test::kInfinity);
constexpr Bounds kIdentity{-kInfinity, kInfinity};

using Values = std::vector<double>;

// Sizes are those of the forward pass, in both directions.
struct Problem {
  Sizes sizes;
  Precision precision;
  Bounds activation[2], last;
  bool added;
  bool fine = false;  // inputs have more bits than TF32 keeps

  ElementType type() const {
    return precision == Precision::kBFloat16 ? ElementType::kBFloat16 : ElementType::kFloat32;
  }
  std::string text() const {
    const Sizes& s = sizes;
    std::string all = precision == Precision::kFloat32         ? "float32"
                      : precision == Precision::kTensorFloat32 ? "tf32"
                                                               : "bf16";
    for (const std::int64_t n :
         {s.images, std::int64_t{s.from_h}, std::int64_t{s.from_w}, std::int64_t{s.from_c},
          std::int64_t{s.expanded}, std::int64_t{s.to_h}, std::int64_t{s.to_w},
          std::int64_t{s.to_c}, std::int64_t{s.kernel_h}, std::int64_t{s.kernel_w},
          std::int64_t{s.stride_h}, std::int64_t{s.stride_w}, std::int64_t{s.pad_top},
          std::int64_t{s.pad_left}}) {
      all += ' ' + std::to_string(n);
    }
    return all + (added ? " added" : "");
  }
};

inline bool is_identity(const Bounds& a) { return a.low == -kInfinity && a.high == kInfinity; }

inline double activated(double v, const Bounds& a) {
  return std::min(std::max(v, static_cast<double>(a.low)), static_cast<double>(a.high));
}

inline bool passes(double y, const Bounds& a) {
  return y > static_cast<double>(a.low) && y < static_cast<double>(a.high);
}

// An element as the products see it: TF32 has 11 significant bits.
inline double taken(double value, Precision precision) {
  if (precision != Precision::kTensorFloat32 || value == 0) return value;
  const double quantum = std::ldexp(1.0, std::ilogb(value) - 10);
  return std::round(value / quantum) * quantum;  // ties away from zero
}

// The constants: quarters, so that sums of them are exact.
struct Constants {
  Values expand;   // [from_c, expanded]
  Values taps;     // [kernel_h * kernel_w, expanded]
  Values project;  // [expanded, to_c]
  Values bias[3];

  Constants(const Sizes& s, std::mt19937& random) {
    const auto fill = [&random](Values& values, int n, int largest) {
      for (int i = 0; i < n; ++i) {
        const auto spread = static_cast<unsigned int>(2 * largest + 1);
        values.push_back(static_cast<double>(static_cast<int>(random() % spread) - largest) / 4);
      }
    };
    fill(expand, s.from_c * s.expanded, 2);
    fill(taps, s.kernel_h * s.kernel_w * s.expanded, 3);
    fill(project, s.expanded * s.to_c, 2);
    fill(bias[0], s.expanded, 4);
    fill(bias[1], s.expanded, 4);
    fill(bias[2], s.to_c, 4);
  }
};

// Calls body(from position, to position, tap) for each position that a window covers.
template <typename Body>
void for_each_tap(const Sizes& s, Body&& body) {
  for (int y = 0; y < s.to_h; ++y) {
    for (int x = 0; x < s.to_w; ++x) {
      for (int a = 0; a < s.kernel_h; ++a) {
        for (int b = 0; b < s.kernel_w; ++b) {
          const int row = y * s.stride_h + a - s.pad_top;
          const int column = x * s.stride_w + b - s.pad_left;
          if (row < 0 || row >= s.from_h || column < 0 || column >= s.from_w) continue;
          body(row * s.from_w + column, y * s.to_w + x, a * s.kernel_w + b);
        }
      }
    }
  }
}

// Rows of `in` channels times a matrix [in, out].
inline Values product(const Values& rows, const Values& weight, int in, int out, bool transposed,
                      Precision precision) {
  const std::size_t count = rows.size() / static_cast<std::size_t>(in);
  Values result(count * static_cast<std::size_t>(out));
  for (std::size_t r = 0; r < count; ++r) {
    for (int i = 0; i < in; ++i) {
      const double v =
          taken(rows[r * static_cast<std::size_t>(in) + static_cast<std::size_t>(i)], precision);
      for (int o = 0; o < out; ++o) {
        const int at = transposed ? o * in + i : i * out + o;
        result[r * static_cast<std::size_t>(out) + static_cast<std::size_t>(o)] +=
            v * weight[static_cast<std::size_t>(at)];
      }
    }
  }
  return result;
}

// The windows of all images, forward or backward.
inline Values windows(const Values& from, const Constants& with, const Sizes& s, bool backward) {
  const int in = s.from_h * s.from_w;
  const int out = s.to_h * s.to_w;
  const auto channels = static_cast<std::size_t>(s.expanded);
  Values to(static_cast<std::size_t>(s.images * (backward ? in : out)) * channels);
  for (std::int64_t n = 0; n < s.images; ++n) {
    for_each_tap(s, [&](int at_in, int at_out, int tap) {
      const auto a = static_cast<std::size_t>(n * in + at_in) * channels;
      const auto b = static_cast<std::size_t>(n * out + at_out) * channels;
      const auto w = static_cast<std::size_t>(tap) * channels;
      for (std::size_t c = 0; c < channels; ++c) {
        if (backward) {
          to[a + c] += from[b + c] * with.taps[w + c];
        } else {
          to[b + c] += from[a + c] * with.taps[w + c];
        }
      }
    });
  }
  return to;
}

struct Bits {
  std::vector<bool> of;
};

// value = rounded(activation(value + bias)), and its bits.
inline Bits finish(Values& values, const Values& bias, const Bounds& activation, ElementType type) {
  Bits bits;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = rows_test::rounded(activated(values[i] + bias[i % bias.size()], activation), type);
    bits.of.push_back(passes(values[i], activation));
  }
  return bits;
}

// cotangent = rounded(pulled back).
inline void mask(Values& values, const Bits& bits, const Bounds& activation, ElementType type) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!is_identity(activation) && !bits.of[i]) values[i] = 0;
    values[i] = rows_test::rounded(values[i], type);
  }
}

struct Forward {
  Values out;
  Bits bits[3];
};

inline Forward forward(const Problem& problem, const Constants& with, const Values& x,
                       const Values& residual) {
  const Sizes& s = problem.sizes;
  Forward result;
  Values e = product(x, with.expand, s.from_c, s.expanded, false, problem.precision);
  result.bits[0] = finish(e, with.bias[0], problem.activation[0], problem.type());
  Values d = windows(e, with, s, false);
  result.bits[1] = finish(d, with.bias[1], problem.activation[1], problem.type());
  result.out = product(d, with.project, s.expanded, s.to_c, false, problem.precision);
  for (std::size_t i = 0; i < residual.size(); ++i) result.out[i] += residual[i];
  result.bits[2] = finish(result.out, with.bias[2], problem.last, problem.type());
  return result;
}

inline Values backward(const Problem& problem, const Constants& with, const Values& g,
                       const Bits (&bits)[3], const Values& other) {
  const Sizes& s = problem.sizes;
  Values d = product(g, with.project, s.to_c, s.expanded, true, problem.precision);
  mask(d, bits[1], problem.activation[1], problem.type());
  Values e = windows(d, with, s, true);
  mask(e, bits[0], problem.activation[0], problem.type());
  Values out = product(e, with.expand, s.expanded, s.from_c, true, problem.precision);
  for (std::size_t i = 0; i < other.size(); ++i) out[i] += other[i];
  for (double& value : out) value = rows_test::rounded(value, problem.type());
  return out;
}

// Sizes as the kernel takes them, with from and to in the direction that runs.
inline Sizes directed(const Sizes& s, bool backward) {
  if (!backward) return s;
  Sizes swapped = s;
  std::swap(swapped.from_h, swapped.to_h);
  std::swap(swapped.from_w, swapped.to_w);
  std::swap(swapped.from_c, swapped.to_c);
  return swapped;
}

}  // namespace block_test
