// average_pool_backward: the cotangent of an average pooling's input, from that of its output.
//
//   value[p] = sum of g[w] / divisor(w) over the windows w that cover position p
//   out      = pull_back(value + other, x_mask, x_slope)
//
// The divisor is that of torch.nn.functional.avg_pool2d: `divisor` if it is not 0; otherwise, with
// count_include_pad, the number of the window's positions in the image and its padding (a window
// that ceil_mode extends past the padding is clipped to it); otherwise the number of its positions
// in the image. The operator gathers: each element of out looks at the windows that cover it, so it
// is written once and always summed in the same order. `other` is another consumer's cotangent of
// the same input. It may be out itself, which is then added to.
//
// Bytes moved, with s = sizeof(element): g once (windows that overlap read it again from the
// cache), out once, and other and x_mask once if given: N * C * (OH * OW * s + H * W * (s [+ s] [+
// 1/8])). Each covering window costs a multiply-add, so memory sets the floor. Global pooling
// (kernel = image) writes one scaled row of g to all positions, so nearly all of its traffic is
// writes.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/pool_window.h"
#include "common/storage.h"

namespace sign_ext {

struct AveragePoolBackwardArgs {
  ElementType type;            // of g, out and other
  const void* g;               // [n * h.out * w.out, channels]
  void* out;                   // [n * h.size * w.size, channels]
  const void* other;           // like out, may be out, or null
  const std::uint8_t* x_mask;  // [n * h.size * w.size, ceil(channels / 8)], or null
  float x_slope;
  bool count_include_pad;
  int divisor;  // 0: from the window
  std::int64_t n;
  std::int64_t channels;
  PoolWindow window;  // dilations are 1
};

// One axis's factor of a window's divisor: the product over both axes is the divisor.
SIGN_EXT_HOST_DEVICE int average_pool_count(const PoolAxis& axis, int out, bool include_pad) {
  const int start = out * axis.stride - axis.padding;
  const int end = start + axis.kernel;
  const int far = include_pad ? axis.size + axis.padding : axis.size;
  const int near = include_pad || start > 0 ? start : 0;
  return (end < far ? end : far) - near;
}

// Rows [begin, end) of the n * h.size rows of the input. Splitting a call anywhere gives
// bit-identical results.
void average_pool_backward_cpu(const AveragePoolBackwardArgs& args, std::int64_t begin,
                               std::int64_t end);

// Launches on `stream` (a cudaStream_t) of the current device. Returns null on success, else the
// CUDA error message.
const char* average_pool_backward_cuda(const AveragePoolBackwardArgs& args, void* stream);

}  // namespace sign_ext
