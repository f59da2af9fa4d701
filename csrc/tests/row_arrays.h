// What the tests of operators on rows of channels share: arrays with guarded ends, bfloat16 by its
// definition, values that produce ties, and the bits of a mask.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "common/storage.h"

namespace rows_test {

using sign_ext::ElementType;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline std::size_t element_bytes(ElementType type) { return type == ElementType::kFloat32 ? 4 : 2; }

// Rounds to the nearest value with 8 significant bits, ties to even. Normal values only.
inline double rounded(double value, ElementType type) {
  if (type == ElementType::kFloat32) return static_cast<double>(static_cast<float>(value));
  if (value == 0 || !std::isfinite(value)) return value;
  const double quantum = std::ldexp(1.0, std::ilogb(value) - 7);
  return std::nearbyint(value / quantum) * quantum;
}

// Bytes that start `offset` past a 16-byte boundary and end with their heap block, so that
// AddressSanitizer stops at the first byte read or written past them. They initially hold a marker.
class Bytes {
 public:
  Bytes(std::size_t size, std::size_t offset = 0)
      : size_(size),
        offset_(offset),
        base_(static_cast<unsigned char*>(::operator new(size + offset, std::align_val_t{16}))) {
    std::memset(base_, 0x5a, size + offset);
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { ::operator delete(base_, std::align_val_t{16}); }

  unsigned char* data() { return base_ + offset_; }
  std::size_t size() const { return size_; }
  bool front_untouched() const {
    for (std::size_t i = 0; i < offset_; ++i) {
      if (base_[i] != 0x5a) return false;
    }
    return true;
  }

 private:
  std::size_t size_;
  std::size_t offset_;
  unsigned char* base_;
};

// Elements of one type, read and written as double.
class Elements {
 public:
  Elements(std::int64_t n, ElementType type, int offset = 0)
      : type_(type),
        bytes_(static_cast<std::size_t>(n) * element_bytes(type),
               static_cast<std::size_t>(offset) * element_bytes(type)) {}

  void* data() { return bytes_.data(); }
  bool front_untouched() const { return bytes_.front_untouched(); }
  double get(std::int64_t i) {
    const unsigned char* at = bytes_.data() + static_cast<std::size_t>(i) * element_bytes(type_);
    if (type_ == ElementType::kFloat32) {
      float value;
      std::memcpy(&value, at, 4);
      return static_cast<double>(value);
    }
    std::uint16_t bits;
    std::memcpy(&bits, at, 2);
    const int exponent = bits >> 7 & 0xff;
    const int mantissa = bits & 0x7f;
    const double sign = bits >> 15 != 0 ? -1.0 : 1.0;
    if (exponent == 255) return mantissa != 0 ? std::nan("") : sign * kInfinity;
    return sign *
           std::ldexp(mantissa + (exponent == 0 ? 0 : 128), (exponent == 0 ? 1 : exponent) - 134);
  }
  // `value` must be a value of the type; it is rounded to float32 only.
  void set(std::int64_t i, double value) {
    unsigned char* at = bytes_.data() + static_cast<std::size_t>(i) * element_bytes(type_);
    const auto single = static_cast<float>(value);
    unsigned char bytes[4];
    std::memcpy(bytes, &single, 4);
    if (type_ == ElementType::kFloat32) {
      std::memcpy(at, bytes, 4);
    } else {
      std::memcpy(at, bytes + 2, 2);  // the upper half; little-endian
    }
  }

 private:
  ElementType type_;
  Bytes bytes_;
};

// Eighths between -8 and 8, exact in both types, with some zeros, infinities and NaN. Sums and
// products of a few are exact in float32, and many lie between two bfloat16 values.
inline double draw(std::mt19937& random) {
  switch (random() % 40) {
    case 0:
      return std::nan("");
    case 1:
      return kInfinity;
    case 2:
      return -kInfinity;
    case 3:
    case 4:
    case 5:
      return 0.0;
    case 6:
      return -0.0;
    default:
      return static_cast<double>(static_cast<int>(random() % 129) - 64) / 8;
  }
}

// Equal as numbers, NaN equal to NaN.
inline bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

inline bool bit_of(const std::uint8_t* mask, std::int64_t channels, std::int64_t row,
                   std::int64_t channel) {
  return (mask[row * ((channels + 7) / 8) + channel / 8] >> (channel % 8) & 1) != 0;
}

// Whether the bits past the last channel of every row are 0.
inline bool padding_is_zero(const std::uint8_t* mask, std::int64_t rows, std::int64_t channels) {
  const std::int64_t row_bytes = (channels + 7) / 8;
  for (std::int64_t row = 0; row < rows && channels % 8 != 0; ++row) {
    if (mask[row * row_bytes + row_bytes - 1] >> (channels % 8) != 0) return false;
  }
  return true;
}

struct Size {
  std::int64_t rows;
  std::int64_t channels;
};

// Whole bytes and ragged ends, joined rows, rows longer than a stretch, and none at all.
inline std::vector<Size> sizes() {
  std::vector<Size> all;
  for (const std::int64_t channels : {1, 3, 7, 8, 16, 22, 24, 33, 40, 64, 100, 255, 520, 700}) {
    for (const std::int64_t rows : {1, 2, 5, 67}) all.push_back({rows, channels});
  }
  all.push_back({0, 8});
  all.push_back({1000, 3});
  all.push_back({300, 16});
  return all;
}

}  // namespace rows_test
