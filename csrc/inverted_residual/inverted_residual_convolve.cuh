// The windows of inverted_residual over 32 of the expanded channels. Results are activated (or
// pulled back) on the way to shared memory, and their bits written (or read).

#pragma once

#include "inverted_residual/inverted_residual_tile.cuh"
#include "inverted_residual/inverted_residual_windows.cuh"

namespace sign_ext::block {

// A lane's part of a chunk: four of its channels.
template <typename Tile>
struct Lane {
  int channel;
  const float* taps;
  const float* bias;  // forward
  int byte;           // of a row's bits, shared with an adjacent lane
  bool has_bits;      // whether that byte exists

  __device__ __forceinline__ Lane(const Tile& tile, int chunk)
      : channel(lane_of() % 8 * 4),
        taps(reinterpret_cast<const float*>(tile.shared + tile.weights_at(chunk) + tile.p.taps_in) +
             channel),
        bias(reinterpret_cast<const float*>(tile.shared + tile.weights_at(chunk) + tile.p.bias_in) +
             channel),
        byte(chunk * (kChunk / 8) + channel / 8),
        has_bits(tile.args.bits[1] != nullptr && byte < tile.row_bits()) {}
};

template <typename Tile>
__device__ __forceinline__ Plane<typename Tile::T> plane_of(const Tile& tile,
                                                            const Lane<Tile>& lane, int image) {
  const int first = image * tile.s.from_h * tile.s.from_w;
  return {tile.shared, tile.p.expanded_at + first * tile.p.wide_row + lane.channel * Tile::kSize,
          tile.p.wide_row, tile.s.from_h, tile.s.from_w};
}

// Finishes and stores a position's four channels after the windows, with their share of the bits.
template <typename Tile>
__device__ __forceinline__ void store_middle(const Tile& tile, const Lane<Tile>& lane, int row,
                                             bool there, Four value) {
  auto* const to =
      reinterpret_cast<typename Tile::T*>(tile.shared + tile.p.middle_at + row * tile.p.wide_row) +
      lane.channel;
  const auto bits = [&]() -> std::uint8_t& {
    std::uint8_t* const first = tile.args.bits[1] + tile.to_first() * tile.row_bits();
    return first[row * tile.row_bits() + lane.byte];
  };
  const int shift = lane.channel % 8;
  if constexpr (Tile::kBackward) {
    if (tile.args.bits[1] != nullptr) {
      pull_back(lane.has_bits && there ? static_cast<unsigned int>(bits()) >> shift : 0u, value);
    }
    if (there) store_channels(to, value);
  } else {
    add(load_channels<4>(lane.bias), value);
    const unsigned int word = activate_and_store(tile.args.activation[1], value, to, there);
    const unsigned int all = joined<2>(word << shift);
    if (lane.has_bits && there && shift == 0) bits() = static_cast<std::uint8_t>(all);
  }
}

template <typename Tile>
__device__ __forceinline__ void convolve_lines(const Tile& tile, int chunk) {
  const Lane<Tile> lane(tile, chunk);
  const int parts = tile.images() * tile.s.to_h << tile.p.line_parts;
  const int length = tile.p.part_length;
  for (int four = 4 * warp_of(); four < parts; four += 4 * kWarps) {
    // If fewer than four parts are left, the lanes without one repeat the first part and store
    // nothing.
    const bool there = four + lane_of() / 8 < parts;
    const int part = there ? four + lane_of() / 8 : four;
    const int line = part >> tile.p.line_parts;
    const int x = (part & ((1 << tile.p.line_parts) - 1)) * length;
    const int image = quotient(line, tile.p.over_to_h);
    int row = line * tile.s.to_w + x;
    const int end = there ? (line + 1) * tile.s.to_w : 0;
    slide_along<Tile::kBackward>(tile.s, plane_of(tile, lane, image), lane.taps,
                                 line - image * tile.s.to_h, x, length, [&](const Four& value) {
                                   store_middle(tile, lane, row, row < end, value);
                                   ++row;
                                 });
  }
}

template <typename Tile>
__device__ __forceinline__ void convolve_positions(const Tile& tile, int chunk) {
  const Lane<Tile> lane(tile, chunk);
  const int rows = tile.to_rows();
  for (int four = 4 * warp_of(); four < rows; four += 4 * kWarps) {
    const bool there = four + lane_of() / 8 < rows;
    const int row = there ? four + lane_of() / 8 : four;
    const int line = quotient(row, tile.p.over_to_w);
    const int image = quotient(line, tile.p.over_to_h);
    const Four value =
        gather<Tile::kBackward>(tile.s, plane_of(tile, lane, image), lane.taps,
                                line - image * tile.s.to_h, row - line * tile.s.to_w);
    store_middle(tile, lane, row, there, value);
  }
}

template <typename Tile>
__device__ __forceinline__ void convolve(const Tile& tile, int chunk) {
  if (slides(tile.s)) {
    convolve_lines(tile, chunk);
  } else {
    convolve_positions(tile, chunk);
  }
}

}  // namespace sign_ext::block
