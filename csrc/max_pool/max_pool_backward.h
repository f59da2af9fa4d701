// max_pool_backward: the cotangent of max_pool's input, from that of its output (max_pool.h).
//
//   g'         = pull_back(g, mask, slope)                              max_pool's own activation
//   value[p]   = sum of g'[w] over the windows w whose index names position p
//   out        = pull_back(value + other, x_mask, x_slope)
//
// The operator gathers: each element of out looks at the windows that cover it, so it is written
// once and always summed in the same order. Positions in no window get value 0. `other` is another
// consumer's cotangent of the same input. It may be out itself, which is then added to.
//
// Bytes moved, with s = sizeof(element): g, its index and its mask once, out once, and other and
// x_mask once if given: N * C * (OH * OW * (s + bits / 8 + 1 / 8) + H * W * (s [+ s] [+ 1/8])).
// Windows that overlap are read again from the cache. Each covering window costs a comparison and
// an addition: memory sets the floor.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/pool_window.h"
#include "common/storage.h"
#include "max_pool/max_pool.h"

namespace sign_ext {

struct MaxPoolBackwardArgs {
  ElementType type;            // of g, out and other
  const void* g;               // [n * h.out * w.out, channels]
  const std::uint8_t* index;   // as max_pool wrote it
  const std::uint8_t* mask;    // of max_pool's activation, or null
  void* out;                   // [n * h.size * w.size, channels]
  const void* other;           // like out, may be out, or null
  const std::uint8_t* x_mask;  // [n * h.size * w.size, ceil(channels / 8)], or null
  float slope;
  float x_slope;
  std::int64_t n;
  std::int64_t channels;
  PoolWindow window;
};

// Rows [begin, end) of the n * h.size rows of the input. Splitting a call anywhere gives
// bit-identical results.
void max_pool_backward_cpu(const MaxPoolBackwardArgs& args, std::int64_t begin, std::int64_t end);

// Launches on `stream` (a cudaStream_t) of the current device. Returns null on success, else the
// CUDA error message.
const char* max_pool_backward_cuda(const MaxPoolBackwardArgs& args, void* stream);

}  // namespace sign_ext
