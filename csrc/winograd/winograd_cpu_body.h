// Winograd's three stages for one vector target (see common/for_each_target.h).

#if SIGN_EXT_VECTOR_BITS == 512
constexpr int kLanes = 16;
constexpr int kRowsWide = 6;  // accumulators: 6 x 4 and 12 x 2 of 32 registers
constexpr int kVectorsWide = 4;
constexpr int kRowsNarrow = 12;
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
#elif SIGN_EXT_VECTOR_BITS == 256
constexpr int kLanes = 8;
constexpr int kRowsWide = 6;  // 6 x 2 of 16 registers
constexpr int kVectorsWide = 2;
constexpr int kRowsNarrow = 6;
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
#else
constexpr int kLanes = 4;
constexpr int kRowsWide = 4;
constexpr int kVectorsWide = 2;
constexpr int kRowsNarrow = 4;
typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));
#endif
constexpr int kVectorsNarrow = kVectorsWide > 2 ? 2 : 1;
static_assert(kWinogradTiles % kRowsWide == 0 && kWinogradTiles % kRowsNarrow == 0);
static_assert(kLanes <= kWinogradLeastChannels);

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// The first channel of vector i of n channels. If n is not a multiple of the lanes, the last vector
// overlaps the one before it and computes the same values again.
inline std::int64_t vector_start(std::int64_t i, std::int64_t n) {
  const std::int64_t start = i * kLanes;
  return start + kLanes <= n ? start : n - kLanes;
}

inline std::int64_t vectors_in(std::int64_t n) { return (n + kLanes - 1) / kLanes; }

struct Tile {
  std::int64_t image, row, column;  // the tile's first output
};

inline Tile tile_at(const WinogradArgs& a, std::int64_t t) {
  const std::int64_t columns = (a.out_width + 1) / 2;
  const std::int64_t per_image = (a.out_height + 1) / 2 * columns;
  const std::int64_t rest = t % per_image;
  return {t / per_image, rest / columns * 2, rest % columns * 2};
}

// Computes B^T d B of one tile. Place i of the 16 goes to patch + i * stride.
inline void transform_input(const WinogradArgs& a, const Tile& tile, const float* zeros,
                            float* patch, std::int64_t stride) {
  const float* pixel[16];
  for (std::int64_t i = 0; i < 4; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) {
      const std::int64_t y = tile.row - a.pad_top + i;
      const std::int64_t x = tile.column - a.pad_left + j;
      const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
      pixel[4 * i + j] =
          inside ? a.x + ((tile.image * a.height + y) * a.width + x) * a.channels : zeros;
    }
  }
  for (std::int64_t v = 0; v < vectors_in(a.channels); ++v) {
    const std::int64_t c = vector_start(v, a.channels);
    Vector d[16];
    Vector e[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) d[i] = load(pixel[i] + c);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      e[j] = d[j] - d[8 + j];
      e[4 + j] = d[4 + j] + d[8 + j];
      e[8 + j] = d[8 + j] - d[4 + j];
      e[12 + j] = d[4 + j] - d[12 + j];
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      store(patch + (4 * i + 0) * stride + c, e[4 * i] - e[4 * i + 2]);
      store(patch + (4 * i + 1) * stride + c, e[4 * i + 1] + e[4 * i + 2]);
      store(patch + (4 * i + 2) * stride + c, e[4 * i + 2] - e[4 * i + 1]);
      store(patch + (4 * i + 3) * stride + c, e[4 * i + 1] - e[4 * i + 3]);
    }
  }
}

// Computes kRows rows by kVectors vectors of columns of V U.
template <int kRows, int kVectors>
inline void multiply_block(const float* v, const float* u, float* m, std::int64_t channels,
                           std::int64_t out_channels) {
  Vector sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sum[r][j] = Vector{};
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    Vector weights[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) weights[j] = load(u + c * out_channels + j * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float value = v[r * channels + c];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[r][j] += value * weights[j];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) store(m + r * out_channels + j * kLanes, sum[r][j]);
  }
}

template <int kRows, int kVectors>
inline void multiply_columns(const WinogradArgs& a, const float* v, const float* u, float* m,
                             std::int64_t k) {
  for (std::int64_t row = 0; row < kWinogradTiles; row += kRows) {
    multiply_block<kRows, kVectors>(v + row * a.channels, u + k, m + row * a.out_channels + k,
                                    a.channels, a.out_channels);
  }
}

// The product of one place: kWinogradTiles x channels times channels x out_channels.
inline void multiply(const WinogradArgs& a, const float* v, const float* u, float* m) {
  constexpr std::int64_t kWide = kVectorsWide * kLanes;
  constexpr std::int64_t kNarrow = kVectorsNarrow * kLanes;
  std::int64_t k = 0;
  for (; k + kWide <= a.out_channels; k += kWide) {
    multiply_columns<kRowsWide, kVectorsWide>(a, v, u, m, k);
  }
  for (; k + kNarrow <= a.out_channels; k += kNarrow) {
    multiply_columns<kRowsNarrow, kVectorsNarrow>(a, v, u, m, k);
  }
  for (; k < a.out_channels; k += kLanes) {
    const std::int64_t at = k + kLanes <= a.out_channels ? k : a.out_channels - kLanes;
    multiply_columns<kRowsNarrow, 1>(a, v, u, m, at);
  }
}

inline Vector activated(Vector v, const Activation& a) {
  if (a.slope != 0.0f) return v > 0.0f ? v : a.slope * v;
  const Vector low = Vector{} + a.low;
  const Vector high = Vector{} + a.high;
  v = v < low ? low : v;
  return v > high ? high : v;
}

// Computes A^T m A of one tile, adds bias and residual, activates, and stores the outputs that lie
// inside the image.
inline void transform_output(const WinogradArgs& a, const Tile& tile, const float* product,
                             std::int64_t stride) {
  for (std::int64_t v = 0; v < vectors_in(a.out_channels); ++v) {
    const std::int64_t k = vector_start(v, a.out_channels);
    Vector d[16];
    Vector e[8];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) d[i] = load(product + i * stride + k);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      e[j] = d[j] + d[4 + j] + d[8 + j];
      e[4 + j] = d[4 + j] - d[8 + j] - d[12 + j];
    }
    const Vector bias = a.bias != nullptr ? load(a.bias + k) : Vector{};
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vector y[2] = {e[4 * i] + e[4 * i + 1] + e[4 * i + 2] + bias,
                           e[4 * i + 1] - e[4 * i + 2] - e[4 * i + 3] + bias};
      if (tile.row + i >= a.out_height) continue;
      const std::int64_t row = (tile.image * a.out_height + tile.row + i) * a.out_width;
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        if (tile.column + j >= a.out_width) continue;
        const std::int64_t at = (row + tile.column + j) * a.out_channels + k;
        const Vector sum = a.residual != nullptr ? y[j] + load(a.residual + at) : y[j];
        store(a.out + at, activated(sum, a.activation));
      }
    }
  }
}

// `scratch` has room for 16 * kWinogradTiles * (channels + out_channels) floats; `zeros` holds
// `channels` zeros.
void winograd_chunks(const WinogradArgs& a, std::int64_t begin, std::int64_t end, float* scratch,
                     const float* zeros) {
  const std::int64_t in_stride = kWinogradTiles * a.channels;
  const std::int64_t out_stride = kWinogradTiles * a.out_channels;
  float* patches = scratch;
  float* products = scratch + 16 * in_stride;
  for (std::int64_t chunk = begin; chunk < end; ++chunk) {
    const std::int64_t first = chunk * kWinogradTiles;
    const std::int64_t last =
        first + kWinogradTiles < a.tiles() ? first + kWinogradTiles : a.tiles();
    for (std::int64_t t = first; t < last; ++t) {
      transform_input(a, tile_at(a, t), zeros, patches + (t - first) * a.channels, in_stride);
    }
    for (std::int64_t place = 0; place < 16; ++place) {
      multiply(a, patches + place * in_stride, a.weight + place * a.channels * a.out_channels,
               products + place * out_stride);
    }
    for (std::int64_t t = first; t < last; ++t) {
      transform_output(a, tile_at(a, t), products + (t - first) * a.out_channels, out_stride);
    }
  }
}
