// The passes over an image that squeeze-and-excitation makes, forward and backward.
//
// position_sums: one number for each channel of an image.
//
//   out[n, c] = factor * sum over positions h, w of x[n, c, h, w] * y[n, c, h, w]   (y: 1 if null)
//
// gate: one scale and one shift for each channel of an image.
//
//   out[n, c, h, w] = x[n, c, h, w] * scale[n, c] + shift[n, c]
//
// In the forward pass position_sums is the pooling and gate the product. In the backward pass
// position_sums is the cotangent of the scale, read with the kept input, and gate is the product's
// cotangent plus the pooling's, which is constant over positions.
//
// Sums are taken in float32: over at most kSumRows positions, then over those sums, so that the
// rounding error grows with the square root of the number of positions at most.
//
// Bytes moved per element of s bytes: position_sums s (with y 2 s), gate 2 s. Arithmetic: 2 FLOP.
// Memory, or the cache, sets the floor.

#pragma once

#include <cstdint>

#include "common/storage.h"

namespace sign_ext {

constexpr std::int64_t kSumRows = 64;       // positions that are added before their sum is
constexpr std::int64_t kSumChannels = 128;  // a CPU thread's share of one image

struct PositionSumsArgs {
  const void* x;  // [images, positions, channels] of type
  const void* y;  // the same, or null
  float* out;     // [images, channels]
  ElementType type;
  std::int64_t images;
  std::int64_t positions;
  std::int64_t channels;
  float factor;
};

struct GateArgs {
  const void* x;       // [images, positions, channels] of type
  void* out;           // the same; may be x
  const float* scale;  // [images, channels]
  const float* shift;  // [images, channels], or null: none
  ElementType type;
  std::int64_t images;
  std::int64_t positions;
  std::int64_t channels;
};

inline std::int64_t sum_parts(std::int64_t channels) {
  return (channels + kSumChannels - 1) / kSumChannels;
}

// The CPU kernels: position_sums over parts [begin, end) of images * sum_parts(channels), gate over
// positions [begin, end) of all images. Splitting a call gives bit-identical results.
void position_sums_cpu(const PositionSumsArgs& args, std::int64_t begin, std::int64_t end);
void gate_cpu(const GateArgs& args, std::int64_t begin, std::int64_t end);

// Launch the CUDA kernels on `stream` (a cudaStream_t) of the current device and return at once,
// several times if there are 2^31 elements or more. They return null on success, else the CUDA
// error message, or (gate) that one image has so many elements.
const char* position_sums_cuda(const PositionSumsArgs& args, void* stream);
const char* gate_cuda(const GateArgs& args, void* stream);

}  // namespace sign_ext
