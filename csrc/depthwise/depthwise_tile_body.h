// A tile of the depthwise kernels: a few adjacent pixels of a row by a few adjacent channels, held
// in registers while the kernel's rows are applied one by one. The bodies of the depthwise kernels
// include this file after common/lanes_body.h.
//
// A tile is a sum over a few source rows, each under its row of the kernel. It reads a few adjacent
// columns of each source row, each once. A column under tap b contributes to at most one pixel of
// the tile, which depends on the geometry (`output` below) and is known at compile time.

// y[t] = sum over b of x[kStride * t + b] * w[b]: column j is kStride * t0 - pad + j of the source.
template <int kSide_, int kStride_, int kPixels_>
struct ForwardColumns {
  static constexpr int kSide = kSide_, kStride = kStride_, kPixels = kPixels_;
  static constexpr int kColumns = kStride * (kPixels - 1) + kSide;
  static constexpr int output(int column, int tap) {
    const int ahead = column - tap;
    return ahead >= 0 && ahead % kStride == 0 && ahead / kStride < kPixels ? ahead / kStride : -1;
  }
  static constexpr int columns_of(int pixels) { return kStride * (pixels - 1) + kSide; }
  static constexpr int read_for(int written) { return written * kStride * kStride; }
};

// x[kStride * i + b - pad] += g[i] * w[b]: the tile begins where x + pad is a multiple of kStride,
// and column j is (x + pad) / kStride - kLead + j of the source.
template <int kSide_, int kStride_, int kPixels_>
struct BackwardColumns {
  static constexpr int kSide = kSide_, kStride = kStride_, kPixels = kPixels_;
  static constexpr int kLead = (kSide - 1) / kStride;
  static constexpr int kColumns = kLead + kPixels / kStride;
  static_assert(kPixels % kStride == 0, "a tile begins at a multiple of the stride");
  static constexpr int output(int column, int tap) {
    const int pixel = kStride * (column - kLead) + tap;
    return pixel >= 0 && pixel < kPixels ? pixel : -1;
  }
  static constexpr int columns_of(int pixels) { return kLead + (pixels - 1) / kStride + 1; }
  static constexpr int read_for(int written) { return written / (kStride * kStride); }
};

// The source of a convolution: plain pixels, or cotangents pulled back through an activation's
// mask.
template <typename Storage>
struct Pixels {
  const Storage* pixels;

  template <typename Span>
  SIGN_EXT_INLINE Floats at(std::int64_t element, std::int64_t, Span span) const {
    return load(pixels + element, span);
  }
  template <typename Span>
  SIGN_EXT_INLINE Floats at_any(std::int64_t element, std::int64_t, Span span) const {
    return load(pixels + element, span);
  }
};

template <typename Storage>
struct Cotangents {
  const Storage* pixels;
  const std::uint8_t* mask;  // or null
  float slope;

  // For slope 0.
  template <typename Span>
  SIGN_EXT_INLINE Floats at(std::int64_t element, std::int64_t byte, Span span) const {
    const Floats value = load(pixels + element, span);
    return mask == nullptr ? value : or_zero(load_bits(mask + byte, span), value);
  }
  template <typename Span>
  SIGN_EXT_INLINE Floats at_any(std::int64_t element, std::int64_t byte, Span span) const {
    if (mask == nullptr || slope == 0.0f) return at(element, byte, span);
    const Floats value = load(pixels + element, span);
    return select(load_bits(mask + byte, span), value, times(value, all(slope)));
  }
};

// The source rows that a row of out reads, and the kernel row that applies to each.
struct RowPairs {
  static constexpr int kMost = 7;
  int count = 0;
  std::int64_t element[kMost];  // where the row starts in the source
  std::int64_t byte[kMost];     // and in the source's mask
  std::int64_t taps[kMost];     // where the kernel's row starts in the weights

  // source_row counts the rows of all images.
  void push(std::int64_t source_row, std::int64_t width, std::int64_t channels,
            std::int64_t first_tap) {
    element[count] = source_row * width * channels;
    byte[count] = source_row * width * mask_row_bytes(channels);
    taps[count] = first_tap * channels;
    ++count;
  }
};

struct Tile {
  const RowPairs& rows;
  std::int64_t first_column;  // the source column of column 0; may lie outside the source
  unsigned int columns;       // bit j: column j lies inside the source and is needed
  std::int64_t pixel;         // the tile's first, of out; may lie before the row
  int from, to;               // pixels [from, to) of the tile lie inside the row
  std::int64_t next_source;   // the tile's share of what the next rows read and write, as
  std::int64_t next_out;      // element offsets into the source and out
};

template <typename Columns>
unsigned int columns_inside(std::int64_t first_column, std::int64_t width, int pixels) {
  const std::int64_t begin = first_column < 0 ? -first_column : 0;
  std::int64_t end = Columns::columns_of(pixels);
  if (end > width - first_column) end = width - first_column;
  return begin < end ? (1u << end) - (1u << begin) : 0;
}

// Keeps a loaded vector in a register. Otherwise GCC reloads it for each use.
SIGN_EXT_INLINE void keep(Floats& value) {
#if SIGN_EXT_VECTOR_BITS > 0
  asm("" : "+v"(value));
#else
  (void)value;
#endif
}

// Adds a tile's products to `sums`, kVectors vectors of channels starting at c. Every pixel adds in
// the same order wherever it lies in a tile. (Tiles entirely inside the image have no special case:
// a loop without the test per column is no faster.) All loops except the one over rows are
// unrolled, so `sums` and `weights` live in registers.
template <typename Columns, int kVectors, typename Source, typename Span>
SIGN_EXT_INLINE void add_products(Floats (&sums)[Columns::kPixels][kVectors], Source source,
                                  const float* weight, std::int64_t channels, const Tile& tile,
                                  std::int64_t c, Span span) {
  const std::int64_t mask_bytes = mask_row_bytes(channels);
  for (int r = 0; r < tile.rows.count; ++r) {
    const float* taps = weight + tile.rows.taps[r] + c;
    Floats weights[Columns::kSide][kVectors];
#pragma GCC unroll 8
    for (int b = 0; b < Columns::kSide; ++b) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        weights[b][v] = load(taps + b * channels + v * kLanes, span);
      }
    }
    std::int64_t element = tile.rows.element[r] + tile.first_column * channels + c;
    std::int64_t byte = tile.rows.byte[r] + tile.first_column * mask_bytes + c / 8;
#pragma GCC unroll 32
    for (int j = 0; j < Columns::kColumns; ++j) {
      if ((tile.columns >> j & 1u) != 0) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          Floats value = source.at(element + v * kLanes, byte + v * kLanes / 8, span);
          keep(value);
#pragma GCC unroll 8
          for (int b = 0; b < Columns::kSide; ++b) {
            const int t = Columns::output(j, b);
            if (t >= 0) sums[t][v] = times_plus(value, weights[b][v], sums[t][v]);
          }
        }
      }
      element += channels;
      byte += mask_bytes;
    }
  }
}

// kVectors vectors of a tile's channels, starting at c. An Operation has a source and weights,
// gives the initial value of a sum (`begin`) and processes the tile's sums, kVectors per pixel
// (`finish`).
template <typename Columns, int kVectors, typename Operation, typename Span>
SIGN_EXT_INLINE void convolve_channels(const Operation& operation, const Tile& tile, std::int64_t c,
                                       Span span) {
  Floats sums[Columns::kPixels][kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Floats first = operation.begin(c + v * kLanes, span);
#pragma GCC unroll 8
    for (int t = 0; t < Columns::kPixels; ++t) sums[t][v] = first;
  }
  add_products<Columns, kVectors>(sums, operation.source, operation.weight, operation.channels,
                                  tile, c, span);
  // finish() loops over memory. Indexing `sums` there would keep it out of registers, hence the
  // copy.
  Floats done[Columns::kPixels * kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < Columns::kPixels * kVectors; ++i) done[i] = sums[i / kVectors][i % kVectors];
  operation.template finish<kVectors>(done, tile.pixel, tile.from, tile.to, c, span);
}

// Prefetches kBytes of memory, to be read or (kWrite) written. They may lie past the end of the
// array. The hardware prefetcher does not follow the tiles' access pattern: this halves the time if
// the images do not fit in a cache.
template <int kBytes, bool kWrite, typename Storage>
SIGN_EXT_INLINE void fetch_ahead(const Storage* base, std::int64_t element) {
#if defined(__GNUC__)
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(base) +
                              static_cast<std::uintptr_t>(element) * sizeof(Storage);
  for (int line = 0; line < kBytes; line += 64) {
    const std::uintptr_t address = from + static_cast<std::uintptr_t>(line);
    __builtin_prefetch(reinterpret_cast<const void*>(address), kWrite ? 1 : 0);
  }
#else
  (void)base, (void)element;
#endif
}

// All channels of a tile: kVectors vectors at a time, so that 8 sums are in flight whatever the
// tile's width, and the remaining vectors one by one in tiles of 8 pixels.
template <template <int, int, int> typename Columns, int kSide, int kStride, int kPixels,
          typename Operation>
void convolve_tile(const Operation& operation, const Tile& tile) {
  using Storage = typename Operation::Storage;
  using Full = Columns<kSide, kStride, kPixels>;
  constexpr int kVectors = 8 / kPixels;
  constexpr int kWritten = 8 * kLanes;
  constexpr int kRead = Full::read_for(kWritten);
  constexpr int kBytes = sizeof(Storage);
  std::int64_t next_source = tile.next_source;
  std::int64_t next_out = tile.next_out;
  std::int64_t c = 0;
  while (c < operation.channels) {
    fetch_ahead<kRead * kBytes, false>(operation.source.pixels, next_source);
    fetch_ahead<kWritten * kBytes, true>(operation.out, next_out);
    if (operation.other != nullptr) {
      fetch_ahead<kWritten * kBytes, false>(operation.other, next_out);
    }
    next_source += kRead;
    next_out += kWritten;
    const std::int64_t end = c + kVectors * kLanes;
    if (end <= operation.channels) {
      convolve_channels<Full, kVectors>(operation, tile, c, Whole{});
      c = end;
      continue;
    }
    for (; c < operation.channels; c += kLanes) {
      const std::int64_t left = operation.channels - c;
      convolve_channels<Columns<kSide, kStride, 8>, 1>(
          operation, tile, c, Part{left < kLanes ? static_cast<int>(left) : kLanes});
    }
  }
}
