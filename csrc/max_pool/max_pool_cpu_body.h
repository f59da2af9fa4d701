// The CPU kernel, once per vector target: a window's maximum for kLanes channels at a time, in
// registers. 2x2 and 3x3 windows that lie entirely in the image are unrolled. They test for NaN
// once at the end and, only if there is one, process their values again in the order of the
// definition.

#include "common/lanes_body.h"
#include "max_pool/index_body.h"

struct Winner {
  Floats value;
  Positions at;
};

// A window's positions inside the image, starting at x: rows [h.first, h.end) of the window, `down`
// elements apart, and columns [w.first, w.end), `right` elements apart.
template <typename Storage>
struct WindowAt {
  const Storage* x;
  std::ptrdiff_t down, right;
  PoolSpan h, w;
  int kernel_w;
};

template <typename Storage, typename Span>
SIGN_EXT_INLINE Winner winner_of(WindowAt<Storage> window, std::ptrdiff_t channel, Span span) {
  const Storage* row = window.x + channel;
  Winner winner{load(row, span), position(window.h.first * window.kernel_w + window.w.first)};
  for (int kh = window.h.first; kh < window.h.end; ++kh) {
    const Storage* x = row;
    for (int kw = window.w.first; kw < window.w.end; ++kw) {
      const Floats value = load(x, span);
      const Bits wins = either(greater(value, winner.value), is_nan(value));
      winner.value = select(wins, value, winner.value);
      winner.at = select(wins, position(kh * window.kernel_w + kw), winner.at);
      x += window.right;
    }
    row += window.down;
  }
  return winner;
}

template <typename Storage, typename Span>
[[gnu::noinline, gnu::cold]] Winner winner_among_nans(WindowAt<Storage> window,
                                                      std::ptrdiff_t channel, Span span) {
  return winner_of(window, channel, span);
}

// The same for a kH x kW window that lies entirely in the image.
template <int kH, int kW, typename Storage, typename Span>
SIGN_EXT_INLINE Winner winner_of_whole(WindowAt<Storage> window, std::ptrdiff_t channel,
                                       Span span) {
  const Storage* x = window.x + channel;
  Winner winner{load(x, span), position(0)};
  Floats previous = winner.value;
  Bits numbers = lanes_of(Whole{});
#pragma GCC unroll 16
  for (int k = 1; k < kH * kW; ++k) {
    const Floats value = load(x + k / kW * window.down + k % kW * window.right, span);
    winner.at = select(greater(value, winner.value), position(k), winner.at);
    winner.value = maximum(value, winner.value);
    if (k % 2 != 0 || k == kH * kW - 1) numbers = and_numbers(numbers, previous, value);
    previous = value;
  }
  if (!every(numbers)) [[unlikely]]
    return winner_among_nans(window, channel, span);
  return winner;
}

// Where the results of one window are written, at its first channel, and the arguments they depend
// on.
template <typename Storage>
struct Results {
  Storage* y;
  std::uint8_t* index;
  std::uint8_t* mask;
  const float* bias;
  Activation activation;
  bool leaky;
};

template <int kBits, typename Storage, typename Span>
SIGN_EXT_INLINE void store_results(Results<Storage> to, std::ptrdiff_t channel, Winner winner,
                                   Span span) {
  const Activation act = to.activation;
  Floats value = winner.value;
  if (to.bias != nullptr) value = plus(value, load(to.bias + channel, span));
  if (to.leaky) {
    value = select(greater(value, all(0.0f)), value, times(value, all(act.slope)));
  } else {
    value = minimum(all(act.high), maximum(all(act.low), value));
  }
  value = as_stored(to.y, value);
  store(to.y + channel, value, span);
  store_index<kBits>(to.index + (channel >> 3) * kBits, winner.at, span);
  if (to.mask != nullptr) {
    const Bits passes =
        to.leaky ? greater(value, all(0.0f)) : between(value, all(act.low), all(act.high));
    store_bits(to.mask + (channel >> 3), passes, span);
  }
}

// Windows [span.first, span.end) of a row of windows, for channels [first, end) in steps of kLanes.
// `image_row` is the image's first row under these windows, and `to` the results of the first
// window of the row. kH = 0: windows of any size, possibly with positions outside the image.
template <int kH, int kW, int kBits, typename Storage, typename Span>
[[gnu::noinline]] void pool_span(const MaxPoolArgs& args, PoolSpan rows, PoolSpan span,
                                 const Storage* image_row, Results<Storage> to,
                                 std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  const PoolAxis w = args.window.w;
  const std::ptrdiff_t channels = args.channels;
  const std::ptrdiff_t group_bytes = mask_row_bytes(channels);
  WindowAt<Storage> window{};
  window.down = args.window.h.dilation * (w.size * channels);
  window.right = w.dilation * channels;
  window.h = rows;
  window.kernel_w = w.kernel;
  to.y += span.first * channels;
  to.index += span.first * group_bytes * kBits;
  if (to.mask != nullptr) to.mask += span.first * group_bytes;
  for (int ow = span.first; ow < span.end; ++ow) {
    window.w = kH != 0 ? PoolSpan{0, kW} : pool_positions_inside(w, ow);
    window.x = image_row + (ow * w.stride - w.padding + window.w.first * w.dilation) * channels;
    for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
      if constexpr (kH == 0) {
        store_results<kBits>(to, channel, winner_of(window, channel, lanes), lanes);
      } else {
        store_results<kBits>(to, channel, winner_of_whole<kH, kW>(window, channel, lanes), lanes);
      }
    }
    to.y += channels;
    to.index += group_bytes * kBits;
    if (to.mask != nullptr) to.mask += group_bytes;
  }
}

template <int kH, int kW, int kBits, typename Storage>
inline void pool_all_channels(const MaxPoolArgs& args, PoolSpan rows, PoolSpan span,
                              const Storage* image_row, Results<Storage> to) {
  if (span.first == span.end) return;
  const std::ptrdiff_t rest = args.channels % kLanes;
  const std::ptrdiff_t whole = args.channels - rest;
  if (whole != 0) {
    pool_span<kH, kW, kBits>(args, rows, span, image_row, to, 0, whole, Whole{});
  }
  if (rest != 0) {
    pool_span<kH, kW, kBits>(args, rows, span, image_row, to, whole, args.channels,
                             Part{static_cast<int>(rest)});
  }
}

template <int kH, int kW, int kBits, typename Storage>
inline void pool_rows(const MaxPoolArgs& args, std::int64_t begin, std::int64_t end) {
  const PoolAxis h = args.window.h;
  const PoolAxis w = args.window.w;
  const std::ptrdiff_t channels = args.channels;
  const std::ptrdiff_t row_groups = w.out * mask_row_bytes(channels);
  for (std::int64_t line = begin; line < end; ++line) {
    const int oh = static_cast<int>(line % h.out);
    const PoolSpan rows = pool_positions_inside(h, oh);
    const int ih = oh * h.stride - h.padding + rows.first * h.dilation;
    const Storage* image_row =
        static_cast<const Storage*>(args.x) + (line / h.out * h.size + ih) * (w.size * channels);
    const Results<Storage> to{static_cast<Storage*>(args.y) + line * (w.out * channels),
                              args.index + line * row_groups * kBits,
                              args.mask == nullptr ? nullptr : args.mask + line * row_groups,
                              args.bias,
                              args.activation,
                              args.activation.slope != 0.0f};
    PoolSpan whole{w.out, w.out};
    if constexpr (kH != 0) {
      if (rows.end - rows.first == kH) whole = pool_whole_windows(w);
      pool_all_channels<kH, kW, kBits>(args, rows, whole, image_row, to);
    }
    pool_all_channels<0, 0, kBits>(args, rows, {0, whole.first}, image_row, to);
    pool_all_channels<0, 0, kBits>(args, rows, {whole.end, w.out}, image_row, to);
  }
}

template <typename Storage>
inline void pool_of_type(const MaxPoolArgs& args, std::int64_t begin, std::int64_t end) {
  const int kernel_h = args.window.h.kernel;
  const int kernel_w = args.window.w.kernel;
  if (kernel_h == 2 && kernel_w == 2) return pool_rows<2, 2, 2, Storage>(args, begin, end);
  if (kernel_h == 3 && kernel_w == 3) return pool_rows<3, 3, 4, Storage>(args, begin, end);
  switch (max_pool_index_bits(args.window)) {
    case 2:
      return pool_rows<0, 0, 2, Storage>(args, begin, end);
    case 4:
      return pool_rows<0, 0, 4, Storage>(args, begin, end);
    default:
      return pool_rows<0, 0, 8, Storage>(args, begin, end);
  }
}

inline void max_pool_rows(const MaxPoolArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.type == ElementType::kFloat32) return pool_of_type<float>(args, begin, end);
  return pool_of_type<std::uint16_t>(args, begin, end);
}
