// The CPU kernel, once per vector target. There are three ways to process a row of the input:
// windows that tile the image, 3-column windows of stride 1 (which share their column sums), and
// all others.

#include "common/lanes_body.h"
#include "common/lanes_epilogue_body.h"

// One axis's factor of 1 / divisor.
struct AxisScale {
  PoolAxis axis;
  bool include_pad;
  float whole;  // for windows entirely in the image, or for all if a divisor is given
  PoolSpan whole_windows;
};

inline AxisScale scale_of(const PoolAxis& axis, bool include_pad, int divisor) {
  if (divisor != 0) return {axis, include_pad, 1.0f / static_cast<float>(divisor), {0, axis.out}};
  return {axis, include_pad, 1.0f / static_cast<float>(axis.kernel), pool_whole_windows(axis)};
}

SIGN_EXT_INLINE float scale_at(const AxisScale& scale, int out) {
  if (out >= scale.whole_windows.first && out < scale.whole_windows.end) return scale.whole;
  return 1.0f / static_cast<float>(average_pool_count(scale.axis, out, scale.include_pad));
}

// The windows over one row of the input: rows [span.first, span.end) of windows, the first of which
// starts at g.
template <typename Storage>
struct WindowRows {
  const Storage* g;
  PoolSpan span;
  std::ptrdiff_t down, right;  // elements to the next row and to the next window
  AxisScale h, w;
};

template <typename Storage, typename Span>
[[gnu::noinline]] void gather_row(WindowRows<Storage> rows, Epilogue<Storage> to,
                                  std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  for (int iw = 0; iw < rows.w.axis.size; ++iw) {
    const PoolSpan columns = pool_windows_over(rows.w.axis, iw);
    for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
      Floats value = all(0.0f);
      for (int oh = rows.span.first; oh < rows.span.end; ++oh) {
        const Storage* g = rows.g + (oh - rows.span.first) * rows.down + channel;
        const float scale = scale_at(rows.h, oh);
        for (int ow = columns.first; ow < columns.end; ++ow) {
          const Floats factor = all(scale * scale_at(rows.w, ow));
          value = times_plus(load(g + ow * rows.right, lanes), factor, value);
        }
      }
      store_cotangent(to, channel, value, lanes);
    }
    to = epilogue_at_row(to, 1, rows.right);
  }
}

// Windows that tile the image: a position has at most one window.
template <typename Storage, typename Span>
[[gnu::noinline]] void tile_row(WindowRows<Storage> rows, Epilogue<Storage> to,
                                std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  const PoolAxis w = rows.w.axis;
  const int windows = rows.span.first < rows.span.end ? w.out : 0;
  int iw = 0;
  for (int ow = 0; ow < windows; ++ow) {
    const Storage* g = rows.g + ow * rows.right;
    const Floats scale = all(scale_at(rows.h, rows.span.first) * scale_at(rows.w, ow));
    for (int kw = 0; kw < w.kernel && iw < w.size; ++kw, ++iw) {
      for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
        store_cotangent(to, channel, times(load(g + channel, lanes), scale), lanes);
      }
      to = epilogue_at_row(to, 1, rows.right);
    }
  }
  for (; iw < w.size; ++iw) {
    for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
      store_cotangent(to, channel, all(0.0f), lanes);
    }
    to = epilogue_at_row(to, 1, rows.right);
  }
}

// One column of kRows windows, scaled and summed.
template <int kRows, typename Storage, typename Span>
SIGN_EXT_INLINE Floats column_of(const WindowRows<Storage>& rows, const float (&scales)[3], int ow,
                                 std::ptrdiff_t channel, Span lanes) {
  if (ow < 0 || ow >= rows.w.axis.out) return all(0.0f);
  const Storage* g = rows.g + ow * rows.right + channel;
  Floats sum = times(load(g, lanes), all(scales[0]));
#pragma GCC unroll 3
  for (int r = 1; r < kRows; ++r) {
    sum = times_plus(load(g + r * rows.down, lanes), all(scales[r]), sum);
  }
  return times(sum, all(scale_at(rows.w, ow)));
}

// 3-column windows of stride 1: a position sums three adjacent columns. Each column is summed over
// its rows once and kept in registers while the position moves along the row, for kSteps * kLanes
// channels at a time, so that each read covers a contiguous stretch of a position's channels.
template <int kRows, int kSteps, typename Storage, typename Span>
SIGN_EXT_INLINE void slide_channels(const WindowRows<Storage>& rows, const float (&scales)[3],
                                    Epilogue<Storage> to, std::ptrdiff_t channel, Span lanes) {
  const int padding = rows.w.axis.padding;
  Floats left[kSteps];
  Floats middle[kSteps];
#pragma GCC unroll 4
  for (int i = 0; i < kSteps; ++i) {
    left[i] = column_of<kRows>(rows, scales, padding - 2, channel + i * kLanes, lanes);
    middle[i] = column_of<kRows>(rows, scales, padding - 1, channel + i * kLanes, lanes);
  }
  for (int iw = 0; iw < rows.w.axis.size; ++iw) {
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) {
      const std::ptrdiff_t at = channel + i * kLanes;
      const Floats right = column_of<kRows>(rows, scales, iw + padding, at, lanes);
      store_cotangent(to, at, plus(plus(left[i], middle[i]), right), lanes);
      left[i] = middle[i];
      middle[i] = right;
    }
    to = epilogue_at_row(to, 1, rows.right);
  }
}

template <int kRows, typename Storage, typename Span>
[[gnu::noinline]] void slide_row(WindowRows<Storage> rows, Epilogue<Storage> to,
                                 std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  constexpr int kSteps = Span::kAll ? 4 : 1;  // a Part is one step
  float scales[3];
  for (int r = 0; r < kRows; ++r) scales[r] = scale_at(rows.h, rows.span.first + r);
  std::ptrdiff_t channel = first;
  for (; channel + kSteps * kLanes <= end; channel += kSteps * kLanes) {
    slide_channels<kRows, kSteps>(rows, scales, to, channel, lanes);
  }
  for (; channel < end; channel += kLanes) {
    slide_channels<kRows, 1>(rows, scales, to, channel, lanes);
  }
}

template <typename Storage, typename Span>
inline void backward_row(const AveragePoolBackwardArgs& args, WindowRows<Storage> rows,
                         Epilogue<Storage> to, std::ptrdiff_t first, std::ptrdiff_t end,
                         Span lanes) {
  const PoolAxis& w = args.window.w;
  const int count = rows.span.end - rows.span.first;
  if (count <= 1 && pool_is_tiling(w)) return tile_row(rows, to, first, end, lanes);
  if (w.kernel == 3 && w.stride == 1) {
    if (count == 3) return slide_row<3>(rows, to, first, end, lanes);
    if (count == 2) return slide_row<2>(rows, to, first, end, lanes);
  }
  gather_row(rows, to, first, end, lanes);
}

template <typename Storage>
inline void backward_of_type(const AveragePoolBackwardArgs& args, std::int64_t begin,
                             std::int64_t end) {
  const PoolAxis& h = args.window.h;
  const PoolAxis& w = args.window.w;
  const std::ptrdiff_t channels = args.channels;
  const std::ptrdiff_t rest = channels % kLanes;
  const std::ptrdiff_t whole = channels - rest;
  WindowRows<Storage> rows{};
  rows.down = w.out * channels;
  rows.right = channels;
  rows.h = scale_of(h, args.count_include_pad, args.divisor);
  rows.w = scale_of(w, args.count_include_pad, args.divisor == 0 ? 0 : 1);
  const Epilogue<Storage> all_rows{static_cast<Storage*>(args.out),
                                   static_cast<const Storage*>(args.other), args.x_mask,
                                   args.x_slope};
  for (std::int64_t line = begin; line < end; ++line) {
    const std::int64_t image = line / h.size;
    rows.span = pool_windows_over(h, static_cast<int>(line % h.size));
    rows.g = static_cast<const Storage*>(args.g) + (image * h.out + rows.span.first) * rows.down;
    const Epilogue<Storage> to = epilogue_at_row(all_rows, line * w.size, channels);
    if (whole != 0) backward_row(args, rows, to, 0, whole, Whole{});
    if (rest != 0) {
      backward_row(args, rows, to, whole, channels, Part{static_cast<int>(rest)});
    }
  }
}

inline void average_pool_backward_rows(const AveragePoolBackwardArgs& args, std::int64_t begin,
                                       std::int64_t end) {
  if (args.type == ElementType::kFloat32) return backward_of_type<float>(args, begin, end);
  return backward_of_type<std::uint16_t>(args, begin, end);
}
