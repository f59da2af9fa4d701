// The CPU kernel, once per vector target. 2-column windows that tile the image are processed one by
// one, and 3x3 windows of stride 2 by pairs of columns (windows_body.h). Otherwise each position
// gathers from the windows that cover it.

#include "common/lanes_body.h"
#include "common/lanes_epilogue_body.h"
#include "max_pool/index_body.h"
#include "max_pool/windows_body.h"

// kRows rows of the input under 2-column windows that tile it: each window is read once for all of
// its positions in these rows. `first_position` is the number of the first of them within a window.
template <int kRows, int kBits, typename Storage, typename Span>
[[gnu::noinline]] void scatter_rows(PoolAxis w, Windows<Storage> windows, Epilogue<Storage> to,
                                    int first_position, std::ptrdiff_t channels,
                                    std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  Fields numbers[2 * kRows];
  for (int k = 0; k < 2 * kRows; ++k) numbers[k] = fields_of<kBits>(first_position + k);
  int iw = 0;
  for (int ow = 0; ow < w.out; ++ow, iw += 2) {
    const int columns = iw + 1 < w.size ? 2 : 1;
    for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
      const Floats g = cotangent_of(windows, channel, lanes);
      const Fields fields = load_index<kBits>(windows.index + (channel >> 3) * kBits, lanes);
#pragma GCC unroll 4
      for (int k = 0; k < 2 * kRows; ++k) {
        if (k % 2 == columns) continue;
        const Epilogue<Storage> here = epilogue_at_row(to, k / 2 * w.size + k % 2, channels);
        store_cotangent(here, channel, or_zero(equal(fields, numbers[k]), g), lanes);
      }
    }
    windows = window_at<kBits>(windows, 1, channels);
    to = epilogue_at_row(to, 2, channels);
  }
  for (; iw < w.size; ++iw) {
    for (int r = 0; r < kRows; ++r) {
      const Epilogue<Storage> here = epilogue_at_row(to, r * w.size, channels);
      for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
        store_cotangent(here, channel, all(0.0f), lanes);
      }
    }
    to = epilogue_at_row(to, 1, channels);
  }
}

// A window that covers a position, and the position's number within the window.
template <typename Storage>
struct Tap {
  Windows<Storage> window;
  Fields fields;
};

constexpr int kMostTaps = 256;

// The windows over a position along one axis: windows last, last - 1, ..., in which the position
// lies at offset, offset + stride, ... from the first element.
struct Cover {
  int last, offset;
};

inline Cover cover_of(int position, const PoolAxis& axis) {
  const int at = position + axis.padding;
  return {at / axis.stride, at % axis.stride};
}

// Calls body(window, position in the window) for each window that covers the position.
template <typename Body>
SIGN_EXT_INLINE void for_each_window(Cover cover, const PoolAxis& axis, Body&& body) {
  const int reach = (axis.kernel - 1) * axis.dilation;
  for (int offset = cover.offset; offset <= reach && cover.last >= 0; offset += axis.stride) {
    const int window = cover.last--;
    if (window >= axis.out) continue;
    if (axis.dilation == 1) {
      body(window, offset);
    } else if (offset % axis.dilation == 0) {
      body(window, offset / axis.dilation);
    }
  }
}

// Columns [span.first, span.end) of one row of the input. `to` starts at column 0.
template <int kBits, typename Storage, typename Span>
[[gnu::noinline]] void gather_span(const PoolWindow& axes, int ih, PoolSpan span,
                                   Windows<Storage> image, Epilogue<Storage> to,
                                   std::ptrdiff_t channels, std::ptrdiff_t first,
                                   std::ptrdiff_t end, Span lanes) {
  const PoolAxis h = axes.h;
  const PoolAxis w = axes.w;
  const Cover rows = cover_of(ih, h);
  Tap<Storage> taps[kMostTaps];
  for (int iw = span.first; iw < span.end; ++iw) {
    const Cover columns = cover_of(iw, w);
    int count = 0;
    for_each_window(rows, h, [&](int oh, int kh) {
      for_each_window(columns, w, [&](int ow, int kw) {
        taps[count].window = window_at<kBits>(image, std::int64_t{oh} * w.out + ow, channels);
        taps[count++].fields = fields_of<kBits>(kh * w.kernel + kw);
      });
    });
    const Epilogue<Storage> here = epilogue_at_row(to, iw, channels);
    for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
      Floats value = all(0.0f);
      for (int i = 0; i < count; ++i) {
        const Windows<Storage> window = taps[i].window;
        const Fields fields = load_index<kBits>(window.index + (channel >> 3) * kBits, lanes);
        const Bits hit = equal(fields, taps[i].fields);
        value = plus_where(hit, value, cotangent_of(window, channel, lanes));
      }
      store_cotangent(here, channel, value, lanes);
    }
  }
}

inline bool is_3_by_2(const PoolAxis& axis) {
  return axis.kernel == 3 && axis.stride == 2 && axis.dilation == 1;
}

// A row of the input under windows of any kind.
template <int kBits, typename Storage, typename Span>
inline void gather_row(const PoolWindow& axes, int ih, Windows<Storage> image, Epilogue<Storage> to,
                       std::ptrdiff_t channels, std::ptrdiff_t first, std::ptrdiff_t end,
                       Span lanes) {
  const PoolAxis& w = axes.w;
  // `middle` is the columns of windows 1 to pairs - 1, two each; gather_span does those before and
  // after.
  const int pairs = (w.size + w.padding) / 2 < w.out ? (w.size + w.padding) / 2 : w.out;
  PoolSpan middle{w.size, w.size};
  if constexpr (kBits == 4) {
    if (is_3_by_2(axes.h) && is_3_by_2(w) && pairs > 1 && w.padding <= 2) {
      Windows<Storage> rows[2];
      int kh[2];
      int count = 0;
      for_each_window(cover_of(ih, axes.h), axes.h, [&](int oh, int position) {
        rows[count] = window_at<kBits>(image, std::int64_t{oh} * w.out, channels);
        kh[count++] = position;
      });
      const PoolSpan columns{2 - w.padding, 2 * pairs - w.padding};
      const PoolSpan windows{1, pairs};
      const Epilogue<Storage> from = epilogue_at_row(to, columns.first, channels);
      if (count != 0) middle = columns;
      if (count == 1) {
        gather_pairs<1, kBits>(rows, kh, windows, from, channels, first, end, lanes);
      } else if (count == 2) {
        gather_pairs<2, kBits>(rows, kh, windows, from, channels, first, end, lanes);
      }
    }
  }
  gather_span<kBits>(axes, ih, {0, middle.first}, image, to, channels, first, end, lanes);
  gather_span<kBits>(axes, ih, {middle.end, w.size}, image, to, channels, first, end, lanes);
}

// `rows` rows of the input starting at `line`: 1, or 2 under 2x2 windows that tile the image.
// Channels [first, end) in steps of kLanes.
template <int kBits, typename Storage, typename Span>
inline void backward_rows(const MaxPoolBackwardArgs& args, std::int64_t line, int rows,
                          std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  const PoolAxis& h = args.window.h;
  const PoolAxis& w = args.window.w;
  const std::ptrdiff_t channels = args.channels;
  const std::int64_t image = line / h.size;
  const int ih = static_cast<int>(line % h.size);
  Windows<Storage> windows{static_cast<const Storage*>(args.g), args.index, args.mask, args.slope};
  windows = window_at<kBits>(windows, image * h.out * w.out, channels);
  const Epilogue<Storage> all_rows{static_cast<Storage*>(args.out),
                                   static_cast<const Storage*>(args.other), args.x_mask,
                                   args.x_slope};
  const Epilogue<Storage> to = epilogue_at_row(all_rows, line * w.size, channels);
  if constexpr (kBits == 2) {
    if (pool_is_tiling(args.window) && w.kernel == 2) {
      const int oh = ih / h.kernel;
      const int position = ih % h.kernel * 2;
      PoolAxis seen = w;
      seen.out = oh < h.out ? w.out : 0;
      windows = window_at<kBits>(windows, std::int64_t{oh} * seen.out, channels);
      if (rows == 2) {
        scatter_rows<2, kBits>(seen, windows, to, position, channels, first, end, lanes);
      } else {
        scatter_rows<1, kBits>(seen, windows, to, position, channels, first, end, lanes);
      }
      return;
    }
  }
  gather_row<kBits>(args.window, ih, windows, to, channels, first, end, lanes);
}

template <int kBits, typename Storage>
inline void backward_of_bits(const MaxPoolBackwardArgs& args, std::int64_t begin,
                             std::int64_t end) {
  const PoolAxis& h = args.window.h;
  const bool paired = pool_is_tiling(args.window) && h.kernel == 2 && args.window.w.kernel == 2;
  const std::ptrdiff_t rest = args.channels % kLanes;
  const std::ptrdiff_t whole = args.channels - rest;
  for (std::int64_t line = begin; line < end;) {
    const std::int64_t ih = line % h.size;
    const int rows = paired && ih % 2 == 0 && ih + 1 < h.size && line + 1 < end ? 2 : 1;
    if (whole != 0) backward_rows<kBits, Storage>(args, line, rows, 0, whole, Whole{});
    if (rest != 0) {
      const Part part{static_cast<int>(rest)};
      backward_rows<kBits, Storage>(args, line, rows, whole, args.channels, part);
    }
    line += rows;
  }
}

template <typename Storage>
inline void backward_of_type(const MaxPoolBackwardArgs& args, std::int64_t begin,
                             std::int64_t end) {
  switch (max_pool_index_bits(args.window)) {
    case 2:
      return backward_of_bits<2, Storage>(args, begin, end);
    case 4:
      return backward_of_bits<4, Storage>(args, begin, end);
    default:
      return backward_of_bits<8, Storage>(args, begin, end);
  }
}

inline void max_pool_backward_rows(const MaxPoolBackwardArgs& args, std::int64_t begin,
                                   std::int64_t end) {
  if (args.type == ElementType::kFloat32) return backward_of_type<float>(args, begin, end);
  return backward_of_type<std::uint16_t>(args, begin, end);
}
