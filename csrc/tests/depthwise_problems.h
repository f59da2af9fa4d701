// The sizes of depthwise convolutions that the tests use, and values whose sums of products are
// exact.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "depthwise/depthwise.h"
#include "tests/row_arrays.h"

namespace depthwise_test {

using sign_ext::DepthwiseSizes;

// Eighths between -4 and 4, exact in both types, and now and then an infinity or NaN. Times weights
// they are multiples of 1/64, so sums over any window are exact in float32 in any order.
inline double draw(std::mt19937& random) {
  switch (random() % 500) {
    case 0:
      return std::nan("");
    case 1:
      return rows_test::kInfinity;
    default:
      return static_cast<double>(static_cast<int>(random() % 65) - 32) / 8;
  }
}

inline double draw_weight(std::mt19937& random) {
  return static_cast<double>(static_cast<int>(random() % 17) - 8) / 8;
}

inline std::string text(const DepthwiseSizes& s) {
  const auto two = [](const char* name, std::int64_t a, std::int64_t b) {
    return std::string(" ") + name + " " + std::to_string(a) + "x" + std::to_string(b);
  };
  return "n " + std::to_string(s.n) + " channels " + std::to_string(s.channels) +
         two("size", s.height, s.width) + two("out", s.out_height, s.out_width) +
         two("kernel", s.kernel_h, s.kernel_w) + two("stride", s.stride_h, s.stride_w) +
         two("pad", s.pad_top, s.pad_left) + two("dilation", s.dilation_h, s.dilation_w);
}

// Padding of half a window, or up to 2 more than a window reaches; as many outputs as fit without
// padding at the end, or as many as the operators accept.
inline void draw_axis(std::mt19937& random, std::int64_t size, std::int64_t kernel,
                      std::int64_t stride, std::int64_t dilation, std::int64_t* pad,
                      std::int64_t* out) {
  const std::int64_t reach = (kernel - 1) * dilation;
  *pad = static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(reach + 3));
  if (random() % 2 == 0) *pad = reach / 2;
  const std::int64_t excess = *pad > reach ? *pad - reach : 0;
  const std::int64_t room = size + *pad - reach - 1;
  *out = (room >= 0 && random() % 2 == 0 ? room : size - 1 + excess + *pad) / stride + 1;
}

inline std::vector<DepthwiseSizes> sizes() {
  std::mt19937 random(7);
  std::vector<DepthwiseSizes> all;
  const auto add = [&](std::int64_t kernel_h, std::int64_t kernel_w, std::int64_t stride_h,
                       std::int64_t stride_w, std::int64_t dilation_h, std::int64_t dilation_w,
                       std::int64_t width, std::int64_t channels) {
    DepthwiseSizes s{};
    s.n = 1 + random() % 2;
    s.height = 1 + random() % 6;
    s.width = width;
    s.channels = channels;
    s.kernel_h = kernel_h;
    s.kernel_w = kernel_w;
    s.stride_h = stride_h;
    s.stride_w = stride_w;
    s.dilation_h = dilation_h;
    s.dilation_w = dilation_w;
    draw_axis(random, s.height, kernel_h, stride_h, dilation_h, &s.pad_top, &s.out_height);
    draw_axis(random, s.width, kernel_w, stride_w, dilation_w, &s.pad_left, &s.out_width);
    all.push_back(s);
  };
  const std::int64_t channels[] = {1, 3, 7, 8, 16, 22, 33, 40, 64, 72, 100, 131};
  for (const int side : {3, 5, 7}) {
    for (const int stride : {1, 2}) {
      for (const std::int64_t c : channels) {
        for (const int width : {1, 2, 3, 4, 5, 8, 11, 20}) {
          if (width * c > 900) continue;
          add(side, side, stride, stride, 1, 1, width, c);
        }
      }
    }
  }
  for (const int c : {1, 7, 8, 19, 40}) {
    add(1, 1, 1, 1, 1, 1, 5, c);
    add(1, 1, 2, 2, 1, 1, 6, c);
    add(2, 3, 1, 1, 1, 1, 7, c);
    add(3, 3, 1, 2, 1, 1, 9, c);
    add(3, 3, 2, 1, 1, 1, 6, c);
    add(3, 3, 3, 3, 1, 1, 10, c);
    add(3, 3, 1, 1, 2, 2, 8, c);
    add(5, 5, 2, 2, 1, 2, 11, c);
    add(1, 7, 1, 1, 1, 1, 9, c);
    add(7, 1, 1, 1, 1, 1, 3, c);
    add(4, 4, 3, 2, 3, 1, 12, c);
    add(9, 9, 1, 1, 1, 1, 10, c);
    add(1, 35, 1, 1, 1, 1, 37, c);
  }
  return all;
}

// The elements that a launch must be allowed for one image.
inline std::int64_t most_for_one_image(const DepthwiseSizes& s) {
  return std::max({s.height * s.width * s.channels, s.out_height * s.out_width * s.channels,
                   s.kernel_h * s.kernel_w * s.channels});
}

// Calls body(element of x, element of out, element of weight) for every product of the definition.
template <typename Body>
void for_each_product(const DepthwiseSizes& s, Body&& body) {
  for (std::int64_t n = 0; n < s.n; ++n) {
    for (std::int64_t i = 0; i < s.out_height; ++i) {
      for (std::int64_t j = 0; j < s.out_width; ++j) {
        for (std::int64_t a = 0; a < s.kernel_h; ++a) {
          for (std::int64_t b = 0; b < s.kernel_w; ++b) {
            const std::int64_t y = i * s.stride_h + a * s.dilation_h - s.pad_top;
            const std::int64_t x = j * s.stride_w + b * s.dilation_w - s.pad_left;
            if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
            for (std::int64_t c = 0; c < s.channels; ++c) {
              body(((n * s.height + y) * s.width + x) * s.channels + c,
                   ((n * s.out_height + i) * s.out_width + j) * s.channels + c,
                   (a * s.kernel_w + b) * s.channels + c);
            }
          }
        }
      }
    }
  }
}

}  // namespace depthwise_test
