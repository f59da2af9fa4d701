// Which positions of an image the windows of a pooling cover, along one axis and along both.
//
// Window `out` covers the positions out * stride - padding + k * dilation for k in [0, kernel);
// those outside [0, size) are padding. The caller chooses the number of windows, so rounding it up
// or down (ceil_mode) is the caller's decision.

#pragma once

#include "common/activation.h"

namespace sign_ext {

struct PoolAxis {
  int size;  // of the image
  int out;   // number of windows
  int kernel;
  int stride;
  int padding;
  int dilation;
};

struct PoolWindow {
  PoolAxis h, w;
};

struct PoolSpan {
  int first, end;
};

// The range of k for which window `out` lies in the image.
SIGN_EXT_HOST_DEVICE PoolSpan pool_positions_inside(const PoolAxis& axis, int out) {
  const int start = out * axis.stride - axis.padding;
  const int step = axis.dilation;
  const int reach = axis.size - start;
  PoolSpan span;
  span.first = start < 0 ? (-start + step - 1) / step : 0;
  span.end = reach > (axis.kernel - 1) * step ? axis.kernel : (reach + step - 1) / step;
  return span;
}

// The windows that lie entirely in the image.
SIGN_EXT_HOST_DEVICE PoolSpan pool_whole_windows(const PoolAxis& axis) {
  const int room = axis.size - 1 - (axis.kernel - 1) * axis.dilation + axis.padding;
  PoolSpan span;
  span.first = (axis.padding + axis.stride - 1) / axis.stride;
  if (span.first > axis.out) span.first = axis.out;
  span.end = room < 0 ? 0 : room / axis.stride + 1;
  if (span.end > axis.out) span.end = axis.out;
  if (span.end < span.first) span.end = span.first;
  return span;
}

// The windows whose extent includes a position of the image. With a dilation, a window covers the
// position only if its distance to it is a multiple of the dilation.
SIGN_EXT_HOST_DEVICE PoolSpan pool_windows_over(const PoolAxis& axis, int position) {
  const int at = position + axis.padding;
  const int earliest = at - (axis.kernel - 1) * axis.dilation;
  const int end = at / axis.stride + 1;
  PoolSpan span;
  span.first = earliest > 0 ? (earliest + axis.stride - 1) / axis.stride : 0;
  span.end = end < axis.out ? end : axis.out;
  return span;
}

// Whether window i begins at i * kernel, without padding. Windows then do not overlap: a position
// is in at most one, which a division finds.
SIGN_EXT_HOST_DEVICE bool pool_is_tiling(const PoolAxis& axis) {
  return axis.kernel == axis.stride && axis.padding == 0 && axis.dilation == 1;
}

SIGN_EXT_HOST_DEVICE bool pool_is_tiling(const PoolWindow& window) {
  return pool_is_tiling(window.h) && pool_is_tiling(window.w);
}

}  // namespace sign_ext
