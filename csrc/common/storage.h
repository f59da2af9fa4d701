// The element types of activations and cotangents on the CPU: float32, or bfloat16 as bits.

#pragma once

#include <cstdint>
#include <cstring>

#include "common/half_bits.h"

namespace sign_ext {

enum class ElementType { kFloat32, kBFloat16 };

// To nearest, ties to even, as PyTorch rounds. NaN stays NaN.
inline std::uint16_t float_to_bfloat16_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

struct Float32 {
  using Storage = float;
  static float load(float value) { return value; }
  static float store(float value) { return value; }
};

struct BFloat16 {
  using Storage = std::uint16_t;
  static float load(std::uint16_t bits) { return bfloat16_bits_to_float(bits); }
  static std::uint16_t store(float value) { return float_to_bfloat16_bits(value); }
};

}  // namespace sign_ext
