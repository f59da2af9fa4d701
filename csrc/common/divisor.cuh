// Division by a number that only the launcher knows, as a multiplication. A division by a variable
// takes 20 instructions on a GPU, and more than 70 with a branch if it is 64-bit; this takes 3.

#pragma once

#include <cstdint>

#include "common/device.cuh"

namespace sign_ext {

// n / divisor of n < 2^31, for a divisor of 1 to 2^31 - 1: (n * magic / 2^32 + n) / 2^shift.
struct Divisor {
  std::uint32_t divisor, magic, shift;
};

inline Divisor divisor_of(std::int64_t divisor) {
  std::uint32_t shift = 0;
  while ((std::int64_t{1} << shift) < divisor) ++shift;
  const auto d = static_cast<std::uint64_t>(divisor);
  const std::uint64_t magic =
      ((std::uint64_t{1} << 32) * ((std::uint64_t{1} << shift) - d)) / d + 1;
  return {static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(magic), shift};
}

__device__ __forceinline__ std::uint32_t divide(std::uint32_t n, const Divisor& by) {
  const auto high = static_cast<std::uint32_t>((std::uint64_t{n} * by.magic) >> 32);
  return (high + n) >> by.shift;
}

// The remainder of n whose quotient is already known.
__device__ __forceinline__ std::uint32_t rest(std::uint32_t n, std::uint32_t quotient,
                                              const Divisor& by) {
  return n - quotient * by.divisor;
}

}  // namespace sign_ext
