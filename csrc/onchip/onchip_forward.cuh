// The forward pass of a layer: product, bias, window maximum, activation, and storing the value and
// its bits.

#pragma once

#include "common/activation.h"
#include "common/pack.cuh"
#include "onchip/onchip_product.cuh"

namespace sign_ext::onchip {

// As in PyTorch, the first maximum wins, and NaN wins over everything.
__device__ __forceinline__ void challenge(float value, int position, float& best, int& winner) {
  if (value > best || value != value) {
    best = value;
    winner = position;
  }
}

// Two adjacent channels of one position.
struct Pair {
  float value[2];
  int winner[2];
};

// Activates a lane's pair and stores its value and, together with the other lanes of the position,
// its bits. All lanes of the warp call this; `there` says whether the position exists.
__device__ __forceinline__ void finish_forward(const Plan& plan, const Layer& layer,
                                               unsigned char* shared, std::uint8_t* residues,
                                               bool there, int pixel, int channel, Pair pair) {
  if (layer.adds >= 0 && there) {
    const Layer& other = plan.layer[layer.adds];
    const auto both = load_pack<__nv_bfloat16, 2>(reinterpret_cast<const __nv_bfloat16*>(
        shared + other.value_at + element_at(pixel, channel, other.out_c, other.value_shift)));
    pair.value[0] += widen(both.values[0]);
    pair.value[1] += widen(both.values[1]);
  }
  const Activation activation{layer.low, layer.high, layer.slope};
  bool pass[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    pass[i] = passes(pair.value[i], activation);
    pair.value[i] = activate(pair.value[i], activation);
  }
  if (layer.value_at >= 0 && there) {
    const Pack<__nv_bfloat16, 2> both{
        {narrow<__nv_bfloat16>(pair.value[0]), narrow<__nv_bfloat16>(pair.value[1])}};
    store_pack(
        reinterpret_cast<__nv_bfloat16*>(
            shared + layer.value_at + element_at(pixel, channel, layer.out_c, layer.value_shift)),
        both);
  }
  if (layer.kept == 0) return;
  const int t = static_cast<int>(threadIdx.x % 4);
  unsigned int word = residue_word(t, pass[0], pass[1], pair.winner[0], pair.winner[1]);
  word |= __shfl_xor_sync(0xffffffffu, word, 1);
  word |= __shfl_xor_sync(0xffffffffu, word, 2);
  if (t != 0 || !there) return;
  std::uint8_t* const bytes = residues + layer.residue_at +
                              residue_at(pixel, channel / kChunk, layer.out_c / kChunk, layer.kept);
  bytes[0] = static_cast<std::uint8_t>(word);
  if (layer.kept == 3) {
    bytes[1] = static_cast<std::uint8_t>(word >> 8);
    bytes[2] = static_cast<std::uint8_t>(word >> 16);
  }
}

// One tile of a layer: rows starting at m0, channels starting at n0.
struct ForwardTile {
  const Plan& plan;
  const Layer& layer;
  const Arrays& arrays;
  unsigned char* shared;
  std::uint8_t* residues;
  const float* bias;

  template <int MT, int NT>
  __device__ __forceinline__ void operator()(int m0, int n0) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const bool pooled = layer.pooled != 0;
    const int rows = forward_rows(layer.out_h, layer.out_w, pooled);
    const int across = pooled ? layer.out_w / 2 : layer.out_w;
    Rows<MT> from;
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      const int m = m0 + 16 * i + a_row(lane);
      const PooledRow place = pooled ? pooled_row(m) : PooledRow{m, 0};
      int y = place.window / across;
      int x = place.window % across;
      if (pooled) {
        y = 2 * y + place.position / 2;
        x = 2 * x + place.position % 2;
      }
      const bool there = pooled ? place.window * kWindow < rows : m < rows;
      set_forward_row(layer, i, there, y, x, from);
    }
    float sums[MT][NT][4];
    product<false, MT, NT>(layer, arrays, from, n0, sums);
    // 32 rows at a time through the same instructions, to limit code size: move_up brings the sums
    // of the next rows to the first fragments.
#pragma unroll 1
    for (int row = m0; row < m0 + 16 * MT; row += 32) {
#pragma unroll
      for (int j = 0; j < NT; ++j) {
        const int channel = n0 + kChunk * j + 2 * (lane % 4);
        const float shift[2] = {bias[channel], bias[channel + 1]};
        if (pooled) {
          const int window = pooled_row(row + lane / 4).window;
          Pair pair;
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            pair.value[c] = sums[0][j][c] + shift[c];
            pair.winner[c] = 0;
            challenge(sums[0][j][2 + c] + shift[c], 1, pair.value[c], pair.winner[c]);
            challenge(sums[1][j][c] + shift[c], 2, pair.value[c], pair.winner[c]);
            challenge(sums[1][j][2 + c] + shift[c], 3, pair.value[c], pair.winner[c]);
          }
          finish_forward(plan, layer, shared, residues, window * kWindow < rows, window, channel,
                         pair);
        } else {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const int m = row + 16 * i + 8 * half + lane / 4;
              const Pair pair{
                  {sums[i][j][2 * half] + shift[0], sums[i][j][2 * half + 1] + shift[1]}, {0, 0}};
              finish_forward(plan, layer, shared, residues, m < rows, m, channel, pair);
            }
          }
        }
      }
      move_up<2>(sums);
    }
  }
};

}  // namespace sign_ext::onchip
