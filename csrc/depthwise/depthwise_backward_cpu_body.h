// The backward kernel for one vector target; see depthwise_backward.h and depthwise_tile_body.h.

#include "common/lanes_body.h"
#include "common/lanes_epilogue_body.h"
#include "depthwise/depthwise_any_body.h"
#include "depthwise/depthwise_tile_body.h"

template <typename Storage_>
struct Backward {
  using Storage = Storage_;

  explicit Backward(const DepthwiseBackwardArgs& args)
      : source{static_cast<const Storage*>(args.g), args.mask, args.slope},
        weight(args.weight),
        channels(args.sizes.channels),
        out(static_cast<Storage*>(args.out)),
        other(static_cast<const Storage*>(args.other)),
        x_mask(args.x_mask),
        x_slope(args.x_slope) {}

  Cotangents<Storage> source;
  const float* weight;
  std::int64_t channels;
  Storage* out;
  const Storage* other;
  const std::uint8_t* x_mask;
  float x_slope;

  template <typename Span>
  SIGN_EXT_INLINE Floats begin(std::int64_t, Span) const {
    return all(0.0f);
  }

  // Adds `other`, applies x's mask and stores pixels [from, to), counted from `pixel`.
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

// Processes a row from place u = x + pad_left, a multiple of the stride, in tiles of kPixels, as
// long as more than `rest` places remain.
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
    // The next kStride rows read one new row of g. This row prefetches its share, one kStride-th of
    // it.
    const std::int64_t next_g =
        (n * s.out_height * kStride + place + kStride) * s.out_width * s.channels / kStride;
    // Small images mostly come with small kernels.
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

template <typename Storage>
void convolve(const DepthwiseBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  const DepthwiseSizes& s = args.sizes;
#if SIGN_EXT_VECTOR_BITS > 0
  const bool wide = s.stride_w == 2;
  const bool leaky = args.mask != nullptr && args.slope != 0.0f;
  switch (leaky ? 0 : depthwise_side(s)) {
    case 3:
      return wide ? convolve_rows<3, 2, Storage>(args, begin, end)
                  : convolve_rows<3, 1, Storage>(args, begin, end);
    case 5:
      return wide ? convolve_rows<5, 2, Storage>(args, begin, end)
                  : convolve_rows<5, 1, Storage>(args, begin, end);
    case 7:
      return wide ? convolve_rows<7, 2, Storage>(args, begin, end)
                  : convolve_rows<7, 1, Storage>(args, begin, end);
    default:
      break;
  }
#endif
  const AnyAxis<true> down{s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h};
  const AnyAxis<true> across{s.width,    s.out_width, s.kernel_w,
                             s.stride_w, s.pad_left,  s.dilation_w};
  convolve_any(Backward<Storage>(args), down, across, begin, end);
}

void depthwise_backward_rows(const DepthwiseBackwardArgs& args, std::int64_t begin,
                             std::int64_t end) {
  if (args.type == ElementType::kFloat32) {
    convolve<float>(args, begin, end);
  } else {
    convolve<std::uint16_t>(args, begin, end);
  }
}
