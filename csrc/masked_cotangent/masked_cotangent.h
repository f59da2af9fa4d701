// masked_cotangent: a cotangent on its way back through what follows a convolution, in one pass:
// out = pull_back(g + other, bit, slope) * scale[c], with `other` a second consumer's cotangent of
// the same value. It is the transpose of `activate` (activate/activate.h).
//
// g, other and out are float32 or bfloat16, all the same; the arithmetic is float32. A blocked
// element of a clamp is 0 whatever its cotangent was, NaN included.
//
// Bytes moved per element, with s the bytes of a stored element (4 or 2): 2 s, with `other` 3 s,
// with a mask 1/8 more (float32: 8, 12, + 0.125). Arithmetic per element: one addition, two
// multiplications and a select, so less than one FLOP a byte: memory (or the cache that holds what
// the layer above has just written) sets the floor, the time of copying as many bytes.

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
  float slope;  // the derivative where a bit is 0
};

// The CPU kernel over rows [begin, end). Splitting a call at any row changes no bit of the result.
void masked_cotangent_cpu(const MaskedCotangentArgs& args, std::int64_t begin, std::int64_t end);

// Launches the CUDA kernel on `stream` (a cudaStream_t) of the current device and returns at once:
// null, or the text of the CUDA error.
const char* masked_cotangent_cuda(const MaskedCotangentArgs& args, void* stream);

}  // namespace sign_ext
