// The activations of common/activation.h for kernels: the kind is a template parameter, so that the
// unrolled loops over a thread's channels contain no branch. A launcher selects the kernel by
// with_activation_kind.

#pragma once

#include "common/activation.h"
#include "common/clamp.cuh"
#include "common/device.cuh"

namespace sign_ext {

enum class ActivationKind : int { kClamp, kLeaky };

template <ActivationKind kKind>
__device__ __forceinline__ float activate(float v, const Activation& a) {
  if constexpr (kKind == ActivationKind::kLeaky) {
    return v > 0.0f ? v : a.slope * v;
  } else {
    return clamp_or_nan(v, a.low, a.high);
  }
}

// The bit, computed from the activation's output.
template <ActivationKind kKind>
__device__ __forceinline__ bool passes(float y, const Activation& a) {
  if constexpr (kKind == ActivationKind::kLeaky) {
    return y > 0.0f;
  } else {
    return static_cast<int>(!(y <= a.low)) & static_cast<int>(!(y >= a.high));
  }
}

// The byte of a bit mask for the first `count` of 8 channels.
template <ActivationKind kKind>
__device__ __forceinline__ std::uint8_t mask_byte(const float (&y)[8], int count,
                                                  const Activation& a) {
  unsigned int bits = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) bits |= (passes<kKind>(y[i], a) ? 1u : 0u) << i;
  return static_cast<std::uint8_t>(bits & 0xffu >> (8 - count));
}

// Calls body(constant), constant.value being the activation's kind.
template <ActivationKind kKind>
struct ActivationConstant {
  static constexpr ActivationKind value = kKind;
};

template <typename Body>
void with_activation_kind(const Activation& activation, Body&& body) {
  if (activation.slope != 0.0f) {
    body(ActivationConstant<ActivationKind::kLeaky>{});
  } else {
    body(ActivationConstant<ActivationKind::kClamp>{});
  }
}

}  // namespace sign_ext
