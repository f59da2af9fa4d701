// Depthwise convolutions of any geometry, forward and backward: a tile of adjacent pixels is held
// in registers while the taps are applied to all of them one by one. The bodies of the depthwise
// kernels include this file after common/lanes_body.h. Operation is defined in
// depthwise_tile_body.h.

// One axis: the positions that are written, and the source position that each reads through a tap.
template <bool kBackward>
struct AnyAxis {
  std::int64_t length;  // of what is written
  std::int64_t source;  // of what is read
  std::int64_t kernel, stride, pad, dilation;

  // The source position, or -1 if there is none.
  std::int64_t source_of(std::int64_t position, std::int64_t tap) const {
    std::int64_t place = position + pad - tap * dilation;
    if constexpr (kBackward) {
      if (place < 0) return -1;
      if (stride != 1) {
        if (place % stride != 0) return -1;
        place /= stride;
      }
    } else {
      place = position * stride + tap * dilation - pad;
    }
    return place >= 0 && place < source ? place : -1;
  }
  // The distance between the source positions of successive positions that have one.
  std::int64_t apart() const { return kBackward ? 1 : stride; }
};

// The pixels of a tile that read a column through some tap, as bits, and the first one's column.
struct TapColumns {
  unsigned int pixels;
  std::int64_t first;
};

template <bool kBackward>
TapColumns columns_by_tap(const AnyAxis<kBackward>& across, std::int64_t x, int pixels,
                          std::int64_t tap) {
  TapColumns columns{0, 0};
  for (int t = 0; t < pixels; ++t) {
    const std::int64_t column = across.source_of(x + t, tap);
    if (column < 0) continue;
    if (columns.pixels == 0) columns.first = column;
    columns.pixels |= 1u << t;
  }
  return columns;
}

constexpr int kAnyPixels = SIGN_EXT_VECTOR_BITS > 0 ? 8 : 4;

// A tile, and the columns of its first taps; those of later taps are recomputed for each use.
template <bool kBackward>
struct AnyTile {
  static constexpr int kKept = 32;

  const AnyAxis<kBackward>& down;
  const AnyAxis<kBackward>& across;
  std::int64_t image, y, x;
  int pixels;
  TapColumns kept[kKept];

  TapColumns by_tap(std::int64_t tap) const {
    return tap < kKept ? kept[tap] : columns_by_tap(across, x, pixels, tap);
  }
};

// One vector of a tile's channels, starting at c.
template <bool kBackward, typename Operation, typename Span>
SIGN_EXT_INLINE void convolve_any_channels(const Operation& operation,
                                           const AnyTile<kBackward>& tile, std::int64_t c,
                                           Span span) {
  const auto source = operation.source;
  const std::int64_t channels = operation.channels;
  const std::int64_t mask_bytes = mask_row_bytes(channels);
  const std::int64_t element_step = tile.across.apart() * channels;
  const std::int64_t byte_step = tile.across.apart() * mask_bytes;
  Floats sums[kAnyPixels];
#pragma GCC unroll 8
  for (int t = 0; t < kAnyPixels; ++t) sums[t] = operation.begin(c, span);
  for (std::int64_t a = 0; a < tile.down.kernel; ++a) {
    const std::int64_t row = tile.down.source_of(tile.y, a);
    if (row < 0) continue;
    const std::int64_t row_start = (tile.image * tile.down.source + row) * tile.across.source;
    const float* taps = operation.weight + a * tile.across.kernel * channels + c;
    for (std::int64_t b = 0; b < tile.across.kernel; ++b) {
      const TapColumns columns = tile.by_tap(b);
      if (columns.pixels == 0) continue;
      const Floats weight = load(taps + b * channels, span);
      std::int64_t element = (row_start + columns.first) * channels + c;
      std::int64_t byte = (row_start + columns.first) * mask_bytes + c / 8;
#pragma GCC unroll 8
      for (int t = 0; t < kAnyPixels; ++t) {
        if ((columns.pixels >> t & 1u) == 0) continue;
        sums[t] = times_plus(source.at_any(element, byte, span), weight, sums[t]);
        element += element_step;
        byte += byte_step;
      }
    }
  }
  Floats done[kAnyPixels];  // see convolve_channels
#pragma GCC unroll 8
  for (int t = 0; t < kAnyPixels; ++t) done[t] = sums[t];
  const std::int64_t pixel = (tile.image * tile.down.length + tile.y) * tile.across.length + tile.x;
  operation.template finish<1>(done, pixel, 0, tile.pixels, c, span);
}

// Rows [begin, end) of the output.
template <bool kBackward, typename Operation>
void convolve_any(const Operation& operation, const AnyAxis<kBackward>& down,
                  const AnyAxis<kBackward>& across, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t x = 0; x < across.length; x += kAnyPixels) {
      AnyTile<kBackward> tile{down,       across, row / down.length, row % down.length, x,
                              kAnyPixels, {}};
      if (across.length - x < kAnyPixels) tile.pixels = static_cast<int>(across.length - x);
      for (std::int64_t b = 0; b < across.kernel && b < AnyTile<kBackward>::kKept; ++b) {
        tile.kept[b] = columns_by_tap(across, x, tile.pixels, b);
      }
      std::int64_t c = 0;
      for (; c + kLanes <= operation.channels; c += kLanes) {
        convolve_any_channels(operation, tile, c, Whole{});
      }
      if (c < operation.channels) {
        convolve_any_channels(operation, tile, c, Part{static_cast<int>(operation.channels - c)});
      }
    }
  }
}
