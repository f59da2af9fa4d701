// Piecewise linear activations that keep one bit per element, and how those bits are packed.
//
//   slope == 0   y = clamp(v, low, high)        ReLU (0, inf), ReLU6 (0, 6), hardtanh, identity
//   slope != 0   y = v > 0 ? v : slope * v      leaky ReLU
//
// An element's bit says whether its derivative is 1. Ties and NaN follow PyTorch: a clamp blocks
// v <= low and v >= high and passes NaN; leaky ReLU passes only v > 0. The bit can be computed from
// y as well as from v, so a library may have applied the activation already.
//
// A bit mask has one row per row of C channels (a pixel, or a sample of a matrix), and a row has
// ceil(C / 8) bytes, so each row starts on a byte boundary: channel c is bit c % 8 of byte c / 8.
// Bits past the last channel are 0.

#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SIGN_EXT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SIGN_EXT_HOST_DEVICE inline
#endif

namespace sign_ext {

struct Activation {
  float low;    // -inf: not bounded below
  float high;   // +inf: not bounded above
  float slope;  // 0: clamp; else leaky ReLU, and the bounds are ignored
};

// A NaN fails both comparisons of the clamp and passes through.
SIGN_EXT_HOST_DEVICE float activate(float v, const Activation& a) {
  if (a.slope != 0.0f) return v > 0.0f ? v : a.slope * v;
  v = v < a.low ? a.low : v;
  return v > a.high ? a.high : v;
}

// The bit, computed from the activation's output or from its input.
SIGN_EXT_HOST_DEVICE bool passes(float y, const Activation& a) {
  if (a.slope != 0.0f) return y > 0.0f;
  return !(y <= a.low) && !(y >= a.high);
}

// Pulls a cotangent back through the activation. A blocked one becomes 0, NaN included.
SIGN_EXT_HOST_DEVICE float pull_back(float cotangent, bool bit, float slope) {
  if (bit) return cotangent;
  return slope == 0.0f ? 0.0f : slope * cotangent;
}

SIGN_EXT_HOST_DEVICE std::int64_t mask_row_bytes(std::int64_t channels) {
  return (channels + 7) / 8;
}

}  // namespace sign_ext
