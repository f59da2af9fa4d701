// Conversions from the two 16-bit float formats, for host code without CUDA or torch headers.

#pragma once

#include <cstdint>
#include <cstring>

namespace sign_ext {

inline float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// bfloat16 is the upper half of a float32.
inline float bfloat16_bits_to_float(std::uint16_t bits) {
  return float_from_bits(static_cast<std::uint32_t>(bits) << 16);
}

// IEEE binary16, exact for all 65,536 bit patterns (a NaN keeps its payload). Every branch compiles
// to a select, so loops over this function vectorise.
inline float float16_bits_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t rest = (bits & 0x7fffu) << 13;  // exponent and mantissa, in float32's place
  // Normal: rebias the exponent by 127 - 15. Infinity and NaN: rebias once more, to all ones.
  const std::uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 112u << 23 : 0u;
  const float normal = float_from_bits(rest + (112u << 23) + special);
  // Subnormal: mantissa * 2^-24. An exponent of 113 reads as 2^-14 * (1 + mantissa / 2^10).
  const float subnormal = float_from_bits(rest + (113u << 23)) - float_from_bits(113u << 23);
  const float magnitude = (bits & 0x7c00u) == 0u ? subnormal : normal;
  std::uint32_t result;
  std::memcpy(&result, &magnitude, sizeof(result));
  return float_from_bits(result | sign);
}

}  // namespace sign_ext
