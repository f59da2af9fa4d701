// The backward kernel for one vector target; see depthwise_backward.h and depthwise_tile_body.h.

#include "common/lanes_body.h"
#include "common/lanes_epilogue_body.h"
#include "depthwise/depthwise_tile_body.h"

template <typename Storage_>
struct Backward {
  using Storage = Storage_;

  explicit Backward(const DepthwiseBackwardArgs& args)
      : source{static_cast<const Storage*>(args.g), args.mask},
        weight(args.weight),
        channels(args.sizes.channels),
        out(static_cast<Storage*>(args.out)),
        other(static_cast<const Storage*>(args.other)),
        x_mask(args.x_mask),
        slope(args.slope),
        x_slope(args.x_slope) {}

  Source<Storage> source;
  const float* weight;
  std::int64_t channels;
  Storage* out;
  const Storage* other;
  const std::uint8_t* x_mask;
  float slope;
  float x_slope;

  template <typename Span>
  SIGN_EXT_INLINE Floats begin(std::int64_t, Span) const {
    return all(0.0f);
  }

  // Pixels [from, to) behind `pixel`.
  template <int kVectors, typename Span>
  [[gnu::noinline]] void finish(const Floats* v, std::int64_t pixel, int from, int to,
                                std::int64_t c, Span span) const {
    Epilogue<Storage> row =
        epilogue_at_row(Epilogue<Storage>{out, other, x_mask, x_slope}, pixel + from, channels);
    const std::int64_t apart = channels;
    for (int t = from; t < to; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        store_cotangent(row, c + i * kLanes, v[t * kVectors + i], span);
      }
      row = epilogue_at_row(row, 1, apart);
    }
  }
};

#if SIGN_EXT_VECTOR_BITS > 0

// A row from place u = x + pad_left on, a multiple of the stride, in tiles of kPixels, as long as
// more than `rest` places are left of it.
template <int kSide, int kStride, int kPixels, typename Storage>
std::int64_t convolve_pixels(const Backward<Storage>& backward, const DepthwiseSizes& s,
                             const RowPairs& rows, std::int64_t row, std::int64_t next_g,
                             std::int64_t u, int rest) {
  using Columns = BackwardColumns<kSide, kStride, kPixels>;
  const std::int64_t end = s.width + s.pad_left;
  for (; end - u > rest; u += kPixels) {
    const int to = end - u < kPixels ? static_cast<int>(end - u) : kPixels;
    const std::int64_t column = u / kStride - Columns::kLead;
    const std::int64_t pixel = row * s.width + u - s.pad_left;
    const Tile tile{rows,
                    column,
                    columns_inside<Columns>(column, s.out_width, to),
                    pixel,
                    u < s.pad_left ? static_cast<int>(s.pad_left - u) : 0,
                    to,
                    next_g + u / (kStride * kStride) * s.channels,
                    (pixel + s.width) * s.channels};
    convolve_tile<BackwardColumns, kSide, kStride, kPixels>(backward, tile);
  }
  return u;
}

// Square kernels without dilation.
template <int kSide, int kStride, typename Storage>
void convolve_rows(const DepthwiseBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  const Backward<Storage> backward(args);
  const DepthwiseSizes& s = args.sizes;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t n = row / s.height;
    const std::int64_t place = row % s.height + s.pad_top;
    RowPairs rows;
    for (int a = 0; a < kSide; ++a) {
      const std::int64_t ahead = place - a;
      if (ahead < 0 || ahead % kStride != 0 || ahead / kStride >= s.out_height) continue;
      rows.push(n * s.out_height + ahead / kStride, s.out_width, s.channels, a * kSide);
    }
    // Of the row of g that the next kStride rows read for the first time, this row asks for one
    // part of kStride.
    const std::int64_t next_g =
        (n * s.out_height * kStride + place + kStride) * s.out_width * s.channels / kStride;
    // Small images are those of small kernels.
    constexpr bool kSmallTiles = kSide == 3 && sizeof(Storage) == 4;
    std::int64_t u = s.pad_left / kStride * kStride;
    u = convolve_pixels<kSide, kStride, 8>(backward, s, rows, row, next_g, u, kSmallTiles ? 4 : 0);
    if constexpr (kSmallTiles) {
      u = convolve_pixels<kSide, kStride, 4>(backward, s, rows, row, next_g, u, 2);
      convolve_pixels<kSide, kStride, 2>(backward, s, rows, row, next_g, u, 0);
    }
  }
}

#endif

// Any kernel: one pixel and one vector of channels at a time.
template <typename Storage, typename Span>
SIGN_EXT_INLINE void convolve_pixel(const Backward<Storage>& backward, const DepthwiseSizes& s,
                                    std::int64_t row, std::int64_t x, std::int64_t c, Span span) {
  const std::int64_t n = row / s.height;
  const std::int64_t y = row % s.height;
  const std::int64_t mask_bytes = mask_row_bytes(s.channels);
  Floats sum = backward.begin(c, span);
  for (std::int64_t a = 0; a < s.kernel_h; ++a) {
    const std::int64_t down = y + s.pad_top - a * s.dilation_h;
    if (down < 0) break;
    if (down % s.stride_h != 0 || down / s.stride_h >= s.out_height) continue;
    const std::int64_t g_row = (n * s.out_height + down / s.stride_h) * s.out_width;
    const float* taps = backward.weight + a * s.kernel_w * s.channels + c;
    for (std::int64_t b = 0; b < s.kernel_w; ++b) {
      const std::int64_t across = x + s.pad_left - b * s.dilation_w;
      if (across < 0) break;
      if (across % s.stride_w != 0 || across / s.stride_w >= s.out_width) continue;
      const std::int64_t pixel = g_row + across / s.stride_w;
      Floats g = load(backward.source.pixels + pixel * s.channels + c, span);
      if (backward.source.mask != nullptr) {
        const Bits bits = load_bits(backward.source.mask + pixel * mask_bytes + c / 8, span);
        g = backward.slope == 0.0f ? or_zero(bits, g)
                                   : select(bits, g, times(g, all(backward.slope)));
      }
      sum = times_plus(g, load(taps + b * s.channels, span), sum);
    }
  }
  backward.template finish<1>(&sum, row * s.width + x, 0, 1, c, span);
}

template <typename Storage>
void convolve_any(const DepthwiseBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  const Backward<Storage> backward(args);
  const DepthwiseSizes& s = args.sizes;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t x = 0; x < s.width; ++x) {
      std::int64_t c = 0;
      for (; c + kLanes <= s.channels; c += kLanes) {
        convolve_pixel(backward, s, row, x, c, Whole{});
      }
      if (c < s.channels) {
        convolve_pixel(backward, s, row, x, c, Part{static_cast<int>(s.channels - c)});
      }
    }
  }
}

template <typename Storage>
void convolve(const DepthwiseBackwardArgs& args, std::int64_t begin, std::int64_t end) {
#if SIGN_EXT_VECTOR_BITS > 0
  const bool wide = args.sizes.stride_w == 2;
  const bool leaky = args.mask != nullptr && args.slope != 0.0f;
  const int side = leaky ? 0 : depthwise_side(args.sizes);
  if (side == 3) {
    return wide ? convolve_rows<3, 2, Storage>(args, begin, end)
                : convolve_rows<3, 1, Storage>(args, begin, end);
  }
  if constexpr (sizeof(Storage) == 4) {
    if (side == 5) {
      return wide ? convolve_rows<5, 2, Storage>(args, begin, end)
                  : convolve_rows<5, 1, Storage>(args, begin, end);
    }
    if (side == 7) {
      return wide ? convolve_rows<7, 2, Storage>(args, begin, end)
                  : convolve_rows<7, 1, Storage>(args, begin, end);
    }
  }
#endif
  convolve_any<Storage>(args, begin, end);
}

void depthwise_backward_rows(const DepthwiseBackwardArgs& args, std::int64_t begin,
                             std::int64_t end) {
  if (args.type == ElementType::kFloat32) {
    convolve<float>(args, begin, end);
  } else {
    convolve<std::uint16_t>(args, begin, end);
  }
}
