// The CPU side of common/watch.h.

#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "common/watch.h"

namespace sign_ext {

inline std::int32_t magnitude_bits_of(float value) {
  return std::bit_cast<std::int32_t>(value) & kMagnitudeBits;
}

// value <- max(value, bits), safe against other threads doing the same.
inline void raise_to(float* value, std::int32_t bits) {
  const std::atomic_ref<float> shared(*value);
  float held = shared.load(std::memory_order_relaxed);
  while (std::bit_cast<std::int32_t>(held) < bits) {
    if (shared.compare_exchange_weak(held, std::bit_cast<float>(bits), std::memory_order_relaxed)) {
      return;
    }
  }
}

// Counts a step. Called once all of its elements are done.
inline void count_step(const float* watch, std::int32_t* counts) {
  ++counts[0];
  const bool finite =
      magnitude_bits_of(watch[0]) < kInfinityBits && magnitude_bits_of(watch[1]) < kInfinityBits;
  if (!finite && counts[0] < counts[1]) counts[1] = counts[0];
}

}  // namespace sign_ext
