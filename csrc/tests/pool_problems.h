// The windows that the pooling tests use, and an independent loop over the positions that a window
// covers.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/pool_window.h"

namespace pool_test {

using sign_ext::PoolAxis;
using sign_ext::PoolWindow;

// The number of windows, rounded as in torch; `up` is ceil_mode.
inline int windows(int size, int kernel, int stride, int padding, int dilation, bool up) {
  const int room = size + 2 * padding - dilation * (kernel - 1) - 1 + (up ? stride - 1 : 0);
  int out = room / stride + 1;
  if (up && (out - 1) * stride >= size + padding) --out;  // the last one begins inside the image
  return out;
}

inline PoolAxis axis(int size, int kernel, int stride, int padding, int dilation = 1,
                     bool up = false) {
  return {size,    windows(size, kernel, stride, padding, dilation, up), kernel, stride, padding,
          dilation};
}

inline std::vector<PoolWindow> undilated_windows() {
  return {
      {axis(6, 2, 2, 0), axis(8, 2, 2, 0)},                     // tiles, nothing left over
      {axis(5, 2, 2, 0), axis(7, 2, 2, 0)},                     // positions in no window
      {axis(5, 2, 2, 0, 1, true), axis(7, 2, 2, 0, 1, true)},   // tiles that extend past the image
      {axis(7, 3, 3, 0), axis(8, 3, 3, 0, 1, true)},            //
      {axis(9, 3, 2, 0), axis(11, 3, 2, 0)},                    // 3x3, stride 2
      {axis(8, 3, 2, 0, 1, true), axis(10, 3, 2, 0, 1, true)},  //
      {axis(9, 3, 2, 1), axis(12, 3, 2, 1)},                    //
      {axis(6, 3, 2, 1, 1, true), axis(7, 3, 2, 1, 1, true)},   //
      {axis(3, 3, 2, 0), axis(3, 3, 2, 0)},                     // one window
      {axis(4, 3, 2, 1), axis(5, 3, 2, 0)},                     //
      {axis(5, 3, 1, 1), axis(6, 3, 1, 1)},                     // 3x3, stride 1
      {axis(2, 3, 1, 1), axis(1, 3, 1, 1)},                     // smaller than a window
      {{2, 1, 3, 2, 0, 1}, {1, 1, 3, 2, 0, 1}},

      {axis(7, 3, 2, 2), axis(6, 3, 2, 2)},      // more padding than torch accepts
      {axis(4, 2, 1, 0), axis(5, 2, 1, 1)},      //
      {axis(5, 1, 1, 0), axis(4, 3, 1, 0)},      // one row
      {axis(7, 3, 2, 0), axis(4, 2, 1, 1)},      // axes that differ
      {axis(6, 5, 1, 2), axis(5, 5, 3, 2)},      // 25 positions
      {axis(9, 2, 4, 0), axis(9, 2, 3, 0)},      // gaps between windows
      {axis(4, 4, 4, 0), axis(5, 5, 5, 0)},      // the whole image
      {axis(17, 16, 1, 0), axis(16, 16, 1, 0)},  // 256 positions
  };
}

inline std::vector<PoolWindow> dilated_windows() {
  return {
      {axis(7, 2, 2, 0, 2), axis(8, 2, 2, 0, 2)},
      {axis(9, 3, 2, 1, 2), axis(8, 3, 2, 0, 2)},
      {axis(7, 3, 1, 2, 3), axis(9, 3, 1, 2, 2)},
      {axis(8, 2, 3, 1, 3), axis(9, 2, 2, 1, 4)},
  };
}

inline std::string text(const PoolAxis& a) {
  return std::to_string(a.size) + "->" + std::to_string(a.out) + " kernel " +
         std::to_string(a.kernel) + " stride " + std::to_string(a.stride) + " padding " +
         std::to_string(a.padding) + " dilation " + std::to_string(a.dilation);
}

inline std::string text(const PoolWindow& window) {
  return text(window.h) + " x " + text(window.w);
}

// Calls body(row of the image, column of the image, position in the window) for the positions of
// the image that window (oh, ow) covers, in row-major order.
template <typename Body>
void for_each_seen(const PoolWindow& window, int oh, int ow, Body&& body) {
  for (int kh = 0; kh < window.h.kernel; ++kh) {
    for (int kw = 0; kw < window.w.kernel; ++kw) {
      const int ih = oh * window.h.stride - window.h.padding + kh * window.h.dilation;
      const int iw = ow * window.w.stride - window.w.padding + kw * window.w.dilation;
      if (ih < 0 || iw < 0 || ih >= window.h.size || iw >= window.w.size) continue;
      body(ih, iw, kh * window.w.kernel + kw);
    }
  }
}

}  // namespace pool_test
