// The second product of inverted_residual, summed in registers over the expanded channels, and its
// epilogue.

#pragma once

#include "inverted_residual/inverted_residual_channels.cuh"
#include "inverted_residual/inverted_residual_tile.cuh"

namespace sign_ext::block {

// A warp's part: 32 rows by at most kWidest columns.
template <typename Tile, int kWidest>
class Projection {
 public:
  __device__ __forceinline__ explicit Projection(const Tile& tile) : tile_(tile) {
    set_to_zero(sums_);
  }

  // Adds 32 of the expanded channels.
  __device__ __forceinline__ void add(int chunk) {
    if (first_row() >= tile_.p.to_rows || fragments() <= 0) return;
    Tile::Matrix::multiply(
        tile_.shared, Rows{tile_.p.middle_at + first_row() * tile_.p.wide_row, tile_.p.wide_row},
        Rows{tile_.weights_at(chunk) + tile_.p.second_in + first_column() * Tile::kSize,
             tile_.p.second_row},
        kChunk, fragments(), sums_);
  }

  // Adds bias and residual, or the other cotangent, activates, and writes values and bits to global
  // memory.
  __device__ __forceinline__ void finish() const {
    const int g = lane_of() / 4;
    const int t = lane_of() % 4;
    const auto* added = static_cast<const T*>(tile_.args.added);
    auto* to = static_cast<T*>(tile_.args.to);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row() + 16 * i + 8 * half + g;
        const bool there = row < tile_.to_rows();
        const std::int64_t begin = (tile_.to_first() + row) * tile_.s.to_c;
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
          const int column = first_column() + 8 * j;
          if (j >= fragments() || column >= tile_.s.to_c) continue;
          const int channel = column + 2 * t;
          Pair pair{{sums_[i][j][2 * half], sums_[i][j][2 * half + 1]}};
          if (there && added != nullptr) {
            block::add(load_channels<2>(added + begin + channel), pair);
          }
          T* const at = to + begin + channel;
          if constexpr (Tile::kBackward) {
            if (there) store_channels(at, pair);
          } else {
            const float* const bias = tile_.args.bias + 2 * tile_.p.chunks * kChunk;
            block::add(load_channels<2>(bias + channel), pair);
            const unsigned int word =
                joined<4>(activate_and_store(tile_.args.last, pair, at, there) << (2 * t));
            if (tile_.args.last_bits != nullptr && there && t == 0) {
              tile_.args.last_bits[(tile_.to_first() + row) * (tile_.s.to_c / 8) + column / 8] =
                  static_cast<std::uint8_t>(word);
            }
          }
        }
      }
    }
  }

 private:
  static constexpr int kRowTiles = kWarpRows / 16;
  static constexpr int kColumnTiles = kWidest / 8;
  using T = typename Tile::T;

  __device__ __forceinline__ int first_row() const {
    return warp_of() / tile_.p.warps_across * kWarpRows;
  }
  __device__ __forceinline__ int first_column() const {
    return warp_of() % tile_.p.warps_across * tile_.p.columns;
  }
  // The number of 8-column fragments that this warp has.
  __device__ __forceinline__ int fragments() const {
    const int left = tile_.p.to_width - first_column();
    return (left < tile_.p.columns ? left : tile_.p.columns) / 8;
  }

  const Tile& tile_;
  float sums_[kRowTiles][kColumnTiles][4];
};

}  // namespace sign_ext::block
