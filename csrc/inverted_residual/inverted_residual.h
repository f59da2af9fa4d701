// inverted_residual: the block of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), a pointwise
// convolution to E channels, a depthwise convolution and a pointwise one back, in one pass, and its
// input-backward in another. The expanded values never leave the chip.
//
//   forward    e = activate(expand x + bias)
//              d = activate(depthwise * e + bias)
//              out = activate(project d + bias + residual)
//   backward   d' = bits of d (project^T g)
//              e' = bits of e (depthwise^T * d')
//              out = expand^T e' + other
//
// The same code does both: a product to E channels, windows, a product back, 32 of the E channels
// at a time. "from" is the side that is read (x forward, g backward), "to" the side that is
// written. e and d are rounded to the stored type; sums are float32. Bits are computed from e and d
// as stored.
//
// Bytes moved, with s = sizeof(element): from and to once, residual or other once, the bits of e
// and d once, 1/8 byte per element of each; the weights come from L2, once per tile. For the 16
// blocks of MobileNetV2, a step on a 32x32 image in float32 moves 0.58 MB instead of 2.29 MB (as
// counted by the memory plan). Arithmetic: 2 E (rows of from * channels in + taps * rows of to +
// rows of to * channels out) FLOP. Most of the instructions are in the windows, which use plain
// arithmetic (9 multiply-adds per element of d), and in rounding, clamping and packing the bits of
// e and d.

#pragma once

#include <cstdint>

namespace sign_ext::block {

// How the pointwise products are computed. kTensorFloat32 is float32 with factors of 10 mantissa
// bits.
enum class Precision { kFloat32, kTensorFloat32, kBFloat16 };

constexpr int kChunk = 32;  // expanded channels at a time

struct Sizes {
  std::int64_t images;
  int from_h, from_w, from_c;
  int expanded;
  int to_h, to_w, to_c;
  int kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;  // of the forward convolution
};

// An activation: a clamp, as in ReLU (0, inf), ReLU6 (0, 6) or the identity (-inf, inf).
struct Bounds {
  float low, high;
};

struct Args {
  Sizes sizes;
  Precision precision;
  bool backward;
  const void* from;         // [images, from_h, from_w, from_c]
  void* to;                 // [images, to_h, to_w, to_c], overlaps nothing else
  const void* first;        // [chunks, from_c up to a multiple of 16, 32], zero-padded
  const float* taps;        // [chunks, kernel_h * kernel_w, 32]
  const void* second;       // [chunks, 32, to_c up to a multiple of 16]
  const float* bias;        // forward: [chunks * 32] of e, [chunks * 32] of d, [to_c]
  const void* added;        // residual or other: like to, or null
  std::uint8_t* bits[2];    // of the activations after the first product and after the windows, one
                            // row per position of from and of to; written forward, read backward;
                            // or null
  std::uint8_t* last_bits;  // forward: of the last activation, or null
  Bounds activation[2];     // forward
  Bounds last;              // forward
};

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null on success, else the error message.
const char* run_cuda(const Args& args, void* stream);

}  // namespace sign_ext::block
