// The first product of inverted_residual: 32 of the expanded channels of all rows of from. Results
// are activated (or pulled back) on the way to shared memory, and their bits written (or read).

#pragma once

#include "inverted_residual/inverted_residual_channels.cuh"
#include "inverted_residual/inverted_residual_tile.cuh"

namespace sign_ext::block {

// The index of lane t's byte of the bits, byte t of the 8 NT channels, for each four lanes. -1:
// there is none.
template <int NT, typename Tile>
__device__ __forceinline__ std::int64_t bits_at(const Tile& tile, int chunk, int row, int column) {
  const int t = lane_of() % 4;
  const int byte = chunk * (kChunk / 8) + column / 8 + t;
  if (t >= NT || row >= tile.from_rows() || byte >= tile.row_bits()) return -1;
  return (tile.from_first() + row) * tile.row_bits() + byte;
}

template <int NT, typename Tile>
__device__ __forceinline__ void expand_part(const Tile& tile, int chunk, int row, int column) {
  const int g = lane_of() / 4;
  const int t = lane_of() % 4;
  std::uint8_t* const bits = tile.args.bits[0];
  unsigned int words[2] = {~0u, ~0u};
  if (Tile::kBackward && bits != nullptr) {  // loaded before the product, which hides the latency
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t at = bits_at<NT>(tile, chunk, row + 8 * half + g, column);
      words[half] = joined<4>(at < 0 ? 0u : static_cast<unsigned int>(bits[at]) << (8 * t));
      words[half] >>= 2 * t;
    }
  }
  float sums[1][NT][4];
  set_to_zero(sums);
  Tile::Matrix::multiply(tile.shared,
                         Rows{tile.p.input_at + row * tile.p.input_row, tile.p.input_row},
                         Rows{tile.weights_at(chunk) + column * Tile::kSize, tile.p.first_row},
                         tile.p.from_depth, NT, sums);
  [[maybe_unused]] unsigned int passed[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int channel = column + 8 * j + 2 * t;
    const Pair bias =
        Tile::kBackward ? Pair{} : load_channels<2>(tile.args.bias + chunk * kChunk + channel);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pair pair{{sums[0][j][2 * half], sums[0][j][2 * half + 1]}};
      const int at =
          tile.p.expanded_at + (row + 8 * half + g) * tile.p.wide_row + channel * Tile::kSize;
      if constexpr (Tile::kBackward) {
        pull_back(words[half] >> (8 * j), pair);
        store_channels(reinterpret_cast<typename Tile::T*>(tile.shared + at), pair);
      } else {
        add(bias, pair);
        passed[half] |=
            activate_and_store(tile.args.activation[0], pair,
                               reinterpret_cast<typename Tile::T*>(tile.shared + at), true)
            << (8 * j);
      }
    }
  }
  if constexpr (!Tile::kBackward) {
    if (bits == nullptr) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned int word = joined<4>(passed[half] << (2 * t));
      const std::int64_t at = bits_at<NT>(tile, chunk, row + 8 * half + g, column);
      if (at >= 0) bits[at] = static_cast<std::uint8_t>(word >> (8 * t));
    }
  }
}

template <int NT, typename Tile>
__device__ __forceinline__ void expand_by(const Tile& tile, int chunk) {
  const int across = kChunk / (8 * NT);
  for (int i = warp_of(); i < tile.p.from_rows / 16 * across; i += kWarps) {
    expand_part<NT>(tile, chunk, i / across * 16, i % across * 8 * NT);
  }
}

template <typename Tile>
__device__ __forceinline__ void expand(const Tile& tile, int chunk) {
  if (tile.p.from_rows > 64) {
    expand_by<4>(tile, chunk);
  } else {
    expand_by<2>(tile, chunk);
  }
}

}  // namespace sign_ext::block
