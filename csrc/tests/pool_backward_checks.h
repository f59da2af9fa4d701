// What the tests of the pooling backward operators share: the epilogue that all of them have,
// out = pull_back(value + other, x_mask, x_slope), defined in double precision.

#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/pool_problems.h"
#include "tests/row_arrays.h"

namespace pool_test {

using rows_test::Bytes;
using rows_test::Elements;
using sign_ext::ElementType;

enum class Other { kNone, kApart, kInPlace };

// out, other and x_mask of one problem.
class Cotangent {
 public:
  Cotangent(std::int64_t rows, std::int64_t channels, ElementType type, Other other, bool x_mask,
            float x_slope, int offset, std::mt19937& random)
      : rows_(rows),
        channels_(channels),
        type_(type),
        x_slope_(x_slope),
        out_(rows * channels, type, offset),
        apart_(other == Other::kApart ? rows * channels : 0, type, offset),
        x_mask_(x_mask ? static_cast<std::size_t>(rows * ((channels + 7) / 8)) : 0) {
    has_mask_ = x_mask;
    if (other == Other::kInPlace) other_ = out_.data();
    if (other == Other::kApart) other_ = apart_.data();
    Elements& filled = other == Other::kApart ? apart_ : out_;
    for (std::int64_t i = 0; i < rows * channels && other != Other::kNone; ++i) {
      filled.set(i, rows_test::draw(random));
      added_.push_back(filled.get(i));
    }
    for (std::size_t i = 0; i < x_mask_.size(); ++i) {
      x_mask_.data()[i] = static_cast<std::uint8_t>(random());
    }
  }

  void* out() { return out_.data(); }
  const void* other() const { return other_; }
  const std::uint8_t* x_mask() { return has_mask_ ? x_mask_.data() : nullptr; }

  // Compares with the value in double precision. `tolerance` is relative to the magnitude of the
  // terms.
  void check_against(const std::vector<double>& value, const std::vector<double>& magnitude,
                     double tolerance, const std::string& text) {
    for (std::int64_t i = 0; i < rows_ * channels_; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double added = added_.empty() ? 0.0 : added_[at];
      double expected = value[at] + added;
      const bool passes =
          !has_mask_ || rows_test::bit_of(x_mask_.data(), channels_, i / channels_, i % channels_);
      if (!passes) expected = x_slope_ == 0.0f ? 0.0 : expected * double{x_slope_};
      const double exact = rows_test::rounded(expected, type_);
      double slack = tolerance * (magnitude[at] + std::fabs(added));
      if (slack != 0 && type_ == ElementType::kBFloat16) slack += std::fabs(expected) / 256;
      CHECK(rows_test::same(out_.get(i), exact) || std::fabs(out_.get(i) - expected) <= slack,
            text + ": element " + std::to_string(i) + " is " + std::to_string(out_.get(i)) +
                ", not " + std::to_string(expected));
    }
    CHECK(out_.front_untouched(), text + ": wrote before the start of out");
  }

 private:
  std::int64_t rows_, channels_;
  ElementType type_;
  float x_slope_;
  bool has_mask_;
  Elements out_;
  Elements apart_;
  Bytes x_mask_;
  const void* other_ = nullptr;
  std::vector<double> added_;
};

}  // namespace pool_test
