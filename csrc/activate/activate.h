// activate: what follows a convolution, in one pass: y = act(scale[c] x + bias[c] + residual), and
// the bit mask of the activation. pack_mask: the bit mask alone, for when a library has already
// applied the activation.
//
// x is float32 or bfloat16. y has the same type, or is bfloat16 with x float32. The residual has
// y's type. The arithmetic is float32. Bits are computed from y as stored, after rounding, so bits
// and values agree: a value that rounds to a bound of the activation lies on it. The bounds must
// therefore be values of the stored type; registrations round them.
//
// Bytes moved per element, with s the bytes of a stored element (4 or 2): one read of x and one
// write of y. The constants stay in a cache.
//
//   activate    2 s, with a residual 3 s, with a mask 1/8 more   (float32: 8, 12, + 0.125)
//   pack_mask   s + 1/8
//
// Arithmetic per element: one multiply-add, one addition, two comparisons for the value and two for
// the bit, so less than one FLOP per byte. Memory (or the cache that holds what a convolution has
// just written) sets the floor: the time to copy the same number of bytes.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/storage.h"

namespace sign_ext {

struct ActivateArgs {
  const void* x;         // [rows, channels] of x_type
  void* out;             // [rows, channels] of out_type; may be x or the residual
  const float* scale;    // [channels], or null: 1
  const float* bias;     // [channels], or null: none
  const void* residual;  // [rows, channels] of out_type, or null
  std::uint8_t* mask;    // [rows, mask_row_bytes(channels)], or null
  ElementType x_type;
  ElementType out_type;  // x_type, or kBFloat16
  std::int64_t rows;
  std::int64_t channels;
  Activation activation;
};

struct PackMaskArgs {
  const void* y;       // [rows, channels] of y_type, the output of an activation
  std::uint8_t* mask;  // [rows, mask_row_bytes(channels)]
  ElementType y_type;
  std::int64_t rows;
  std::int64_t channels;
  Activation activation;
};

// The CPU kernels over rows [begin, end). Splitting a call at any row gives bit-identical results.
void activate_cpu(const ActivateArgs& args, std::int64_t begin, std::int64_t end);
void pack_mask_cpu(const PackMaskArgs& args, std::int64_t begin, std::int64_t end);

// Launch the CUDA kernels on `stream` (a cudaStream_t) of the current device and return at once,
// several times if there are 2^31 elements or more. They return null on success, else the CUDA
// error message, or that one row has so many elements.
const char* activate_cuda(const ActivateArgs& args, void* stream);
const char* pack_mask_cuda(const PackMaskArgs& args, void* stream);

}  // namespace sign_ext
