// The forward kernel for one vector target; see depthwise.h and depthwise_tile_body.h.

#include "common/lanes_body.h"
#include "depthwise/depthwise_any_body.h"
#include "depthwise/depthwise_tile_body.h"

template <typename Storage_>
struct Forward {
  using Storage = Storage_;

  explicit Forward(const DepthwiseArgs& args)
      : source{static_cast<const Storage*>(args.x)},
        weight(args.weight),
        channels(args.sizes.channels),
        out(static_cast<Storage*>(args.out)),
        bias(args.bias),
        mask(args.mask),
        activation(args.activation) {}

  Pixels<Storage> source;
  const float* weight;
  std::int64_t channels;
  Storage* out;
  static constexpr const Storage* other = nullptr;
  const float* bias;
  std::uint8_t* mask;
  Activation activation;

  template <typename Span>
  SIGN_EXT_INLINE Floats begin(std::int64_t c, Span span) const {
    return bias == nullptr ? all(0.0f) : load(bias + c, span);
  }

  // Activates, rounds and stores pixels [from, to), counted from `pixel`, and writes their mask
  // bits.
  template <int kVectors, typename Span>
  [[gnu::noinline]] void finish(const Floats* v, std::int64_t pixel, int from, int to,
                                std::int64_t c, Span span) const {
    const std::int64_t mask_bytes = mask_row_bytes(channels);
    const bool leaky = activation.slope != 0.0f;
    const Floats slope = all(activation.slope);
    const Floats low = all(activation.low);
    const Floats high = all(activation.high);
    const Floats zero = all(0.0f);
    Storage* y_out = out + (pixel + from) * channels + c;
    std::uint8_t* y_mask = mask == nullptr ? nullptr : mask + (pixel + from) * mask_bytes + c / 8;
    const std::int64_t apart = channels;
    for (int t = from; t < to; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        Floats y = v[t * kVectors + i];
        y = leaky ? select(greater(y, zero), y, times(y, slope)) : minimum(high, maximum(low, y));
        y = as_stored(y_out, y);
        store(y_out + i * kLanes, y, span);
        if (y_mask != nullptr) {
          const Bits bits = leaky ? greater(y, zero) : between(y, low, high);
          store_bits(y_mask + i * kLanes / 8, bits, span);
        }
      }
      y_out += apart;
      if (y_mask != nullptr) y_mask += mask_bytes;
    }
  }
};

#if SIGN_EXT_VECTOR_BITS > 0

// Processes a row from pixel t in tiles of kPixels, as long as more than `rest` pixels remain.
template <int kSide, int kStride, int kPixels, typename Storage>
std::int64_t convolve_pixels(const Forward<Storage>& forward, const DepthwiseSizes& s,
                             const RowPairs& rows, std::int64_t row, std::int64_t next_row,
                             std::int64_t t, int rest) {
  using Columns = ForwardColumns<kSide, kStride, kPixels>;
  for (; s.out_width - t > rest; t += kPixels) {
    const std::int64_t left = s.out_width - t;
    const int pixels = left < kPixels ? static_cast<int>(left) : kPixels;
    const std::int64_t column = t * kStride - s.pad_left;
    const std::int64_t pixel = row * s.out_width + t;
    const Tile tile{rows,
                    column,
                    columns_inside<Columns>(column, s.width, pixels),
                    pixel,
                    0,
                    pixels,
                    (next_row * s.width + t * kStride * kStride) * s.channels,
                    (pixel + s.out_width) * s.channels};
    convolve_tile<ForwardColumns, kSide, kStride, kPixels>(forward, tile);
  }
  return t;
}

// Square kernels without dilation.
template <int kSide, int kStride, typename Storage>
void convolve_rows(const DepthwiseArgs& args, std::int64_t begin, std::int64_t end) {
  const Forward<Storage> forward(args);
  const DepthwiseSizes& s = args.sizes;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t n = row / s.out_height;
    const std::int64_t top = row % s.out_height * kStride - s.pad_top;
    RowPairs rows;
    for (int a = 0; a < kSide; ++a) {
      if (top + a < 0 || top + a >= s.height) continue;
      rows.push(n * s.height + top + a, s.width, s.channels, a * kSide);
    }
    const std::int64_t next_row = n * s.height + top + kSide;
    // Small images mostly come with small kernels.
    constexpr bool kSmallTiles = kSide == 3 && sizeof(Storage) == 4;
    std::int64_t t =
        convolve_pixels<kSide, kStride, 8>(forward, s, rows, row, next_row, 0, kSmallTiles ? 4 : 0);
    if constexpr (kSmallTiles) {
      t = convolve_pixels<kSide, kStride, 4>(forward, s, rows, row, next_row, t, 2);
      convolve_pixels<kSide, kStride, 2>(forward, s, rows, row, next_row, t, 0);
    }
  }
}

#endif

template <typename Storage>
void convolve(const DepthwiseArgs& args, std::int64_t begin, std::int64_t end) {
  const DepthwiseSizes& s = args.sizes;
#if SIGN_EXT_VECTOR_BITS > 0
  const bool wide = s.stride_w == 2;
  switch (depthwise_side(s)) {
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
  const AnyAxis<false> down{s.out_height, s.height,  s.kernel_h,
                            s.stride_h,   s.pad_top, s.dilation_h};
  const AnyAxis<false> across{s.out_width, s.width,    s.kernel_w,
                              s.stride_w,  s.pad_left, s.dilation_w};
  convolve_any(Forward<Storage>(args), down, across, begin, end);
}

void depthwise_rows(const DepthwiseArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.type == ElementType::kFloat32) {
    convolve<float>(args, begin, end);
  } else {
    convolve<std::uint16_t>(args, begin, end);
  }
}
