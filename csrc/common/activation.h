// The piecewise linear activations that keep one bit an element, and how those bits are packed.
//
//   slope == 0   y = clamp(v, low, high)        ReLU (0, inf), ReLU6 (0, 6), hardtanh, none at all
//   slope != 0   y = v > 0 ? v : slope * v      leaky ReLU
//
// The bit of an element says whether its derivative is 1. It follows PyTorch at ties and at NaN:
// clamp blocks v <= low and v >= high and passes NaN, leaky ReLU passes v > 0 alone. It can be read
// off y as well as off v, which is what lets a library apply the activation.
//
// A bit mask has one row for each row of C channels (a pixel, or a sample of a matrix), and a row
// has ceil(C / 8) bytes, so that every row begins with a byte: channel c is bit c % 8 of byte c
// / 8. Bits behind the last channel are 0.

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
  float slope;  // 0: clamp; else leaky ReLU, and the bounds mean nothing
};

// A NaN fails both comparisons of the clamp and passes through.
SIGN_EXT_HOST_DEVICE float activate(float v, const Activation& a) {
  if (a.slope != 0.0f) return v > 0.0f ? v : a.slope * v;
  v = v < a.low ? a.low : v;
  return v > a.high ? a.high : v;
}

// The bit, from the activation's value or from what went into it.
SIGN_EXT_HOST_DEVICE bool passes(float y, const Activation& a) {
  if (a.slope != 0.0f) return y > 0.0f;
  return !(y <= a.low) && !(y >= a.high);
}

// A cotangent on its way back through the activation. A blocked one is 0 whatever it was.
SIGN_EXT_HOST_DEVICE float pull_back(float cotangent, bool bit, float slope) {
  if (bit) return cotangent;
  return slope == 0.0f ? 0.0f : slope * cotangent;
}

SIGN_EXT_HOST_DEVICE std::int64_t mask_row_bytes(std::int64_t channels) {
  return (channels + 7) / 8;
}

}  // namespace sign_ext
