// Problems for stem_update_, their arrays, and its definition in double precision. Values are
// chosen so that float32 arithmetic is exact in any order: results must be bit-identical.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "stem_update/stem_update.h"
#include "tests/check.h"
#include "tests/row_arrays.h"

namespace stem_test {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::ElementType;
using sign_ext::StemUpdateArgs;

constexpr float kNone = std::numeric_limits<float>::infinity();

struct Axis {
  int size, kernel, stride, pad, dilation;
  int pad_end;  // padding after the image

  int out() const { return (size + pad + pad_end - (kernel - 1) * dilation - 1) / stride + 1; }
};

struct Problem {
  int n;
  Axis h, w;
  int in_channels, channels;

  std::string text(std::uint32_t variant) const {
    const auto axis = [](const Axis& a) {
      return std::to_string(a.size) + "/" + std::to_string(a.kernel) + " stride " +
             std::to_string(a.stride) + " pad " + std::to_string(a.pad) + " dilation " +
             std::to_string(a.dilation);
    };
    return std::to_string(n) + " images, " + axis(h) + " x " + axis(w) + ", channels " +
           std::to_string(in_channels) + " and " + std::to_string(channels) + ", variant " +
           std::to_string(variant);
  }
};

inline std::vector<Problem> problems() {
  std::vector<Problem> all;
  const auto square = [](int size, int kernel, int stride, int pad) {
    return Axis{size, kernel, stride, pad, 1, pad};
  };
  // The convolutions of common networks, whose channel counts have specialized code, and nearby odd
  // counts.
  for (const int channels : {1, 3, 7, 8, 16, 22, 32, 33, 64, 72}) {
    all.push_back({2, square(5, 3, 1, 1), square(11, 3, 1, 1), 3, channels});
    all.push_back({1, square(8, 3, 2, 1), square(19, 3, 2, 1), 3, channels});
  }
  for (const int in_channels : {1, 2, 4, 5, 6, 7, 16}) {
    all.push_back({1, square(4, 3, 1, 1), square(9, 3, 1, 1), in_channels, 24});
    all.push_back({2, square(3, 5, 2, 2), square(10, 5, 2, 2), in_channels, 9});
  }
  all.push_back({1, square(13, 7, 2, 3), square(37, 7, 2, 3), 3, 64});
  all.push_back({1, square(5, 7, 2, 3), square(6, 7, 2, 3), 4, 64});  // weights beyond 48 KB
  all.push_back({1, square(5, 7, 2, 3), square(6, 7, 2, 3), 4, 63});
  // Patches: the stride equals the kernel's size; some columns and rows are in no window.
  all.push_back({2, square(8, 4, 4, 0), square(11, 4, 4, 0), 3, 40});
  all.push_back({2, square(9, 2, 3, 0), square(11, 2, 3, 0), 3, 16});
  // Dilation, different sizes along each axis, padding on one side only and larger than the kernel.
  all.push_back({1, {9, 3, 1, 2, 2, 2}, {21, 3, 1, 2, 2, 2}, 3, 32});
  all.push_back({1, {9, 3, 2, 1, 3, 2}, {21, 2, 3, 4, 2, 1}, 3, 32});
  all.push_back({3, {6, 1, 1, 0, 1, 0}, {7, 5, 1, 0, 1, 4}, 3, 32});
  all.push_back({2, {4, 3, 1, 0, 1, 1}, {5, 3, 2, 0, 1, 1}, 3, 32});
  all.push_back({1, {1, 3, 1, 1, 1, 1}, {1, 3, 1, 1, 1, 1}, 3, 32});
  all.push_back({1, {2, 1, 1, 3, 1, 0}, {3, 2, 1, 5, 1, 0}, 2, 8});
  all.push_back({0, square(4, 3, 1, 1), square(4, 3, 1, 1), 3, 32});
  return all;
}

constexpr int kVariants = 24;

// The options of a variant.
struct Variant {
  ElementType type;
  bool mask, velocity, watch;
  float slope, low, high;
  bool nan;
  int offset;  // of g, in elements past a 16-byte boundary

  explicit Variant(std::uint32_t i)
      : type(i % 2 == 0 ? ElementType::kFloat32 : ElementType::kBFloat16),
        mask(i % 3 != 0),
        velocity(i / 2 % 2 != 0),
        watch(i % 4 != 1),
        slope(i % 3 == 2 ? 0.25f : 0.0f),
        low(i % 5 < 2 ? -3.0f : -kNone),
        high(i % 5 == 1 || i % 5 == 3 ? 4.0f : kNone),
        nan(i % 6 == 5),
        offset(i % 7 == 3 ? 1 : 0) {}
};

// An eighth between -1 and 1.
inline double small(std::mt19937& random) { return static_cast<double>(random() % 17) / 8 - 1; }

struct Moved {
  std::vector<double> p, velocity, delta;
};

// The arrays of a problem, and the results by its definition.
class Arrays {
 public:
  Arrays(const Problem& problem, const Variant& variant, std::uint32_t seed, bool exact = true)
      : problem_(problem),
        variant_(variant),
        out_rows_(std::int64_t{problem.n} * problem.h.out() * problem.w.out()),
        pixels_(std::int64_t{problem.n} * problem.h.size * problem.w.size),
        taps_(problem.h.kernel * problem.w.kernel),
        g_(out_rows_ * problem.channels, variant.type, variant.offset),
        mask_(variant.mask ? static_cast<std::size_t>(out_rows_ * ((problem.channels + 7) / 8))
                           : 0),
        weight_(std::int64_t{taps_} * problem.in_channels * problem.channels,
                ElementType::kFloat32),
        p_(pixels_ * problem.in_channels, ElementType::kFloat32, 1),
        velocity_(variant.velocity ? pixels_ * problem.in_channels : 0, ElementType::kFloat32, 3) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> any(-1, 1);
    const auto draw = [&] { return exact ? small(random) : any(random); };
    for (std::int64_t i = 0; i < out_rows_ * problem.channels; ++i) {
      g_.set(i, variant.nan && random() % 997 == 0 ? std::nan("") : draw());
    }
    for (std::int64_t i = 0; i < std::int64_t{taps_} * problem.in_channels * problem.channels;
         ++i) {
      weight_.set(i, draw());
    }
    for (std::int64_t i = 0; i < pixels_ * problem.in_channels; ++i) {
      p_.set(i, 4 * draw());
      if (variant.velocity) velocity_.set(i, draw());
    }
    for (std::size_t i = 0; i < mask_.size(); ++i) {
      mask_.data()[i] = static_cast<unsigned char>(random());
    }
  }

  StemUpdateArgs args() {
    StemUpdateArgs args{};
    args.n = problem_.n;
    args.height = problem_.h.size;
    args.width = problem_.w.size;
    args.in_channels = problem_.in_channels;
    args.out_height = problem_.h.out();
    args.out_width = problem_.w.out();
    args.channels = problem_.channels;
    args.kernel_h = problem_.h.kernel;
    args.kernel_w = problem_.w.kernel;
    args.stride_h = problem_.h.stride;
    args.stride_w = problem_.w.stride;
    args.pad_top = problem_.h.pad;
    args.pad_left = problem_.w.pad;
    args.dilation_h = problem_.h.dilation;
    args.dilation_w = problem_.w.dilation;
    args.type = variant_.type;
    args.g = g_.data();
    args.mask = variant_.mask ? mask_.data() : nullptr;
    args.slope = variant_.slope;
    args.weight = static_cast<const float*>(weight_.data());
    args.p = static_cast<float*>(p_.data());
    args.velocity = variant_.velocity ? static_cast<float*>(velocity_.data()) : nullptr;
    args.watch = variant_.watch ? watch : nullptr;
    args.counts = variant_.watch ? counts : nullptr;
    args.step_size = 0.375f;
    args.momentum = 0.5f;
    args.clamp_min = variant_.low;
    args.clamp_max = variant_.high;
    return args;
  }

  double masked_g(std::int64_t row, int o) {
    const double value = g_.get(row * problem_.channels + o);
    if (!variant_.mask || rows_test::bit_of(mask_.data(), problem_.channels, row, o)) return value;
    return variant_.slope == 0.0f ? 0.0 : double{variant_.slope} * value;
  }

  // Scatters every position of g to all the pixels that it depends on.
  Moved defined() {
    const Axis& h = problem_.h;
    const Axis& w = problem_.w;
    Moved moved;
    moved.delta.assign(static_cast<std::size_t>(pixels_ * problem_.in_channels), 0.0);
    for (std::int64_t row = 0; row < out_rows_; ++row) {
      const std::int64_t image = row / (h.out() * w.out());
      for (int tap = 0; tap < taps_; ++tap) {
        const int a = tap / w.kernel, b = tap % w.kernel;
        const auto i = static_cast<int>(row / w.out() % h.out());
        const auto j = static_cast<int>(row % w.out());
        const int y = i * h.stride + a * h.dilation - h.pad;
        const int x = j * w.stride + b * w.dilation - w.pad;
        if (y < 0 || y >= h.size || x < 0 || x >= w.size) continue;
        for (int c = 0; c < problem_.in_channels; ++c) {
          double& delta = moved.delta[static_cast<std::size_t>(
              ((image * h.size + y) * w.size + x) * problem_.in_channels + c)];
          for (int o = 0; o < problem_.channels; ++o) {
            const std::int64_t at =
                (std::int64_t{tap} * problem_.in_channels + c) * problem_.channels + o;
            delta += masked_g(row, o) * weight_.get(at);
          }
        }
      }
    }
    for (std::size_t i = 0; i < moved.delta.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const double v = moved.delta[i] + (variant_.velocity ? 0.5 * velocity_.get(at) : 0.0);
      if (variant_.velocity) moved.velocity.push_back(v);
      moved.p.push_back(p_.get(at) + 0.375 * v);  // before the clamp
    }
    return moved;
  }

  double clamped(double value) const {
    if (value < variant_.low) return variant_.low;
    return value > variant_.high ? variant_.high : value;
  }

  void compare(const Moved& moved, const float (&before)[2], const std::string& text) {
    double most[2] = {before[0], before[1]};
    const auto raise = [](double& most, double value) {
      if (std::isnan(value) || std::fabs(value) > most) most = std::fabs(value);
    };
    for (std::size_t i = 0; i < moved.p.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      raise(most[0], moved.delta[i]);
      raise(most[1], moved.p[i]);
      CHECK(rows_test::same(p_.get(at), clamped(moved.p[i])),
            text + ": p[" + std::to_string(i) + "] is " + std::to_string(p_.get(at)) + ", not " +
                std::to_string(clamped(moved.p[i])));
      if (variant_.velocity) {
        CHECK(rows_test::same(velocity_.get(at), moved.velocity[i]),
              text + ": velocity[" + std::to_string(i) + "] is wrong");
      }
    }
    for (int i = 0; i < 2; ++i) {
      const double expected = variant_.watch ? most[i] : before[i];
      CHECK(rows_test::same(watch[i], expected), text + ": watch[" + std::to_string(i) + "] is " +
                                                     std::to_string(watch[i]) + ", not " +
                                                     std::to_string(expected));
    }
    // A step is counted if there are pixels, and recorded as bad unless an earlier one was.
    const bool counted = variant_.watch && !moved.p.empty();
    const bool finite = std::isfinite(most[0]) && std::isfinite(most[1]);
    CHECK(counts[0] == (counted ? 6 : 5), text + ": " + std::to_string(counts[0]) + " steps");
    CHECK(counts[1] == (counted && !finite ? 6 : 9), text + ": wrong first bad step");
    CHECK(counts[2] == 0, text + ": the block counter was not reset");
    CHECK(p_.front_untouched() && velocity_.front_untouched() && g_.front_untouched(),
          text + ": wrote before the start of an array");
  }

  // Everything that a call may change, as bytes.
  std::string written() {
    std::string bytes(reinterpret_cast<const char*>(watch), sizeof(watch));
    for (std::int64_t i = 0; i < pixels_ * problem_.in_channels; ++i) {
      for (Elements* array : {&p_, &velocity_}) {
        if (array == &velocity_ && !variant_.velocity) continue;
        bytes.append(static_cast<const char*>(array->data()) + i * 4, 4);
      }
    }
    return bytes;
  }

  std::int32_t counts[3] = {5, 9, 0};
  float watch[2] = {0.0f, 0.0f};

 private:
  Problem problem_;
  Variant variant_;
  std::int64_t out_rows_, pixels_;
  int taps_;
  Elements g_;
  Bytes mask_;
  Elements weight_, p_, velocity_;
};

}  // namespace stem_test
