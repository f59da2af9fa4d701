// masked_cotangent: pulls a cotangent back through what follows a convolution, in one pass:
// out = pull_back(g + other, bit, slope) * scale[c], where `other` is a second consumer's cotangent
// of the same value. It is the transpose of `activate` (activate/activate.h).
//
// g, other and out are float32 or bfloat16, all of the same type; the arithmetic is float32. An
// element that a clamp blocks becomes 0 whatever its cotangent, NaN included.
//
// Bytes moved per element, with s the bytes of a stored element (4 or 2): 2 s, with `other` 3 s,
// with a mask 1/8 more (float32: 8, 12, + 0.125). Arithmetic per element: one addition, two
// multiplications and a select, so less than one FLOP per byte. Memory (or the cache that holds
// what the layer above has just written) sets the floor: the time to copy the same number of bytes.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/storage.h"

namespace sign_ext {

struct MaskedCotangentArgs {
  const void* g;             // [rows, channels] of type
  void* out;                 // [rows, channels] of type; may be g or other
  const void* other;         // [rows, channels] of type, or null
  const std::uint8_t* mask;  // [rows, mask_row_bytes(channels)], or null: nothing is blocked
  const float* scale;        // [channels], or null: 1
  ElementType type;
  std::int64_t rows;
  std::int64_t channels;
  float slope;  // the derivative if the bit is 0
};

// The CPU kernel over rows [begin, end). Splitting a call at any row gives bit-identical results.
void masked_cotangent_cpu(const MaskedCotangentArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once,
// several times if there are 2^31 elements or more. Returns null on success, else the CUDA error
// message, or that one row has so many elements.
const char* masked_cotangent_cuda(const MaskedCotangentArgs& args, void* stream);

}  // namespace sign_ext
