// The forward pass of a layer: product, bias, window maximum, activation, and storing the value and
// its bits.
//
// After the product, a lane works row by row (onchip_rows.cuh). What differs between layers is
// settled once per phase (kPooled) or once per row of NT pairs: whether a value is added, whether
// the activation is ReLU, whether the value and bits are kept.
//
// Floor of a pair after a product, in instructions: 2 additions of the bias, 2 comparisons and
// selections for ReLU, 3 instructions for each of 2 bits, 1 conversion and 1 store; with pooling 8
// additions, and 2 comparisons and 2 selections for each of 6 further positions.

#pragma once

#include "common/activation.h"
#include "onchip/onchip_product.cuh"
#include "onchip/onchip_rows.cuh"

namespace sign_ext::onchip {

// As in PyTorch, the first maximum wins, and NaN wins over everything. `bits` stands for a
// position.
__device__ __forceinline__ void challenge(float value, unsigned int bits, float& best,
                                          unsigned int& winner) {
  if (value > best || value != value) {
    best = value;
    winner = bits;
  }
}

// What follows a layer's product. What every layer needs is read from the plan once per tile, the
// rest where it is needed, so that it takes no registers.
struct ForwardEnd {
  __device__ __forceinline__ ForwardEnd(const Plan& whole_plan, const Layer& own_layer,
                                        unsigned char* shared_memory)
      : plan(whole_plan),
        layer(own_layer),
        shared(shared_memory),
        value_at(layer.value_at),
        residues_at(plan.residues_at + layer.residue_at),
        adds(layer.adds),
        channels(layer.out_c),
        kept(layer.kept),
        shift(layer.value_shift),
        kind(kind_of({layer.low, layer.high, layer.slope})) {}

  // Adds, activates and stores a row; returns the bits of the activation.
  template <int NT>
  __device__ __forceinline__ unsigned int finish(bool there, int pixel, int channel,
                                                 float (&values)[NT][2]) const {
    if (adds >= 0 && there) {
      const Layer& other = plan.layer[adds];
      add_row(shared, other.value_at + element_at(pixel, channel, channels, other.value_shift),
              values);
    }
    const Activation activation{layer.low, layer.high, layer.slope};
    unsigned int pass;
    if (kind == Kind::kRelu) {
      pass = activate_row<Kind::kRelu>(values, activation);
    } else if (kind == Kind::kClamp) {
      pass = activate_row<Kind::kClamp>(values, activation);
    } else {
      pass = activate_row<Kind::kLeaky>(values, activation);
    }
    if (value_at >= 0 && there) {
      unsigned int words[NT];
      pack_row(values, words);
      store_row(shared, value_at + element_at(pixel, channel, channels, shift), words);
    }
    return pass;
  }

  // Stores a plane's NT bytes of a position.
  template <int NT>
  __device__ __forceinline__ void keep(int pixel, int plane, int first, unsigned int word) const {
    const int at = residue_at(pixel, plane, first / kChunk, channels / kChunk, kept);
    store_plane<NT>(shared + residues_at + at, word);
  }

  const Plan& plan;
  const Layer& layer;
  unsigned char* shared;
  int value_at, residues_at, adds, channels, kept, shift;
  Kind kind;
};

// The bits of a window's maxima while they are found: of the chunks 2i and 2i + 1, the low bit of
// the position in the lower half, the high bit in the upper half.
template <int NT>
struct Winners {
  unsigned int chunks[(NT + 1) / 2] = {};

  __device__ __forceinline__ static unsigned int bits_of(int position, int j, int c) {
    const unsigned int low = plane_bit(j % 2, c);
    return (position % 2 != 0 ? low : 0u) | (position / 2 != 0 ? low << 16 : 0u);
  }
  __device__ __forceinline__ unsigned int low() const {
    if constexpr (NT == 4) return permuted(chunks[0], chunks[1], 0x5410u);
    return chunks[0] & 0xffffu;
  }
  __device__ __forceinline__ unsigned int high() const {
    if constexpr (NT == 4) return permuted(chunks[0], chunks[1], 0x7632u);
    return chunks[0] >> 16;
  }
};

// One tile of a layer: rows starting at m0, channels starting at n0.
template <bool kPooled>
struct ForwardTile {
  const Plan& plan;
  const Layer& layer;
  Arrays arrays;
  unsigned char* shared;
  const float* bias;
  Divider across;  // by the number of rows' positions in a line

  template <int MT, int NT>
  __device__ __forceinline__ void operator()(int m0, int n0) const {
    float sums[MT][NT][4];
    multiply(m0, n0, sums);
    const ForwardEnd end(plan, layer, shared);
    const int t = static_cast<int>(threadIdx.x % 4);
    const int channel = n0 + 2 * t;
    float shift[NT][2];
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const Pack<float, 2> both = load_pack<float, 2>(bias + channel + kChunk * j);
      shift[j][0] = both.values[0];
      shift[j][1] = both.values[1];
    }
#pragma unroll
    for (int i = 0; i < MT; i += 2) {
      if constexpr (kPooled) {
        finish_windows(end, m0 + 16 * i, n0, t, shift, sums[i], sums[i + 1]);
      } else {
        finish_rows(end, m0 + 16 * i, n0, t, shift, sums[i], sums[i + 1]);
      }
    }
  }

 private:
  template <int MT, int NT>
  __device__ __forceinline__ void multiply(int m0, int n0, float (&sums)[MT][NT][4]) const {
    const int rows = forward_rows(layer.out_h, layer.out_w, kPooled);
    const int line = kPooled ? layer.out_w / 2 : layer.out_w;
    Rows<MT> from;
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      const int m = m0 + 16 * i + a_row(static_cast<int>(threadIdx.x % 32));
      const PooledRow place = kPooled ? pooled_row(m) : PooledRow{m, 0};
      int y = quotient(place.window, across);
      int x = place.window - y * line;
      if (kPooled) {
        y = 2 * y + place.position / 2;
        x = 2 * x + place.position % 2;
      }
      const bool there = kPooled ? place.window * kWindow < rows : m < rows;
      set_forward_row(layer, i, there, y, x, from);
    }
    product<false, MT, NT>(layer, arrays, from, n0, sums);
  }

  // 32 positions from `row` on, four of each lane.
  template <int NT>
  __device__ __forceinline__ void finish_rows(const ForwardEnd& end, int row, int n0, int t,
                                              const float (&shift)[NT][2],
                                              const float (&upper)[NT][4],
                                              const float (&lower)[NT][4]) const {
    const int rows = layer.out_h * layer.out_w;
    const int g = static_cast<int>(threadIdx.x % 32) / 4;
    unsigned int parts[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float (&sums)[NT][4] = r < 2 ? upper : lower;
      float values[NT][2];
#pragma unroll
      for (int j = 0; j < NT; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) values[j][c] = sums[j][r % 2 * 2 + c] + shift[j][c];
      }
      const int pixel = row + 8 * r + g;
      parts[r] = end.finish(pixel < rows, pixel, n0 + 2 * t, values) << (2 * t);
    }
    if (end.kept == 0) return;
    const unsigned int word = word_of_lane(parts, t);
    const int pixel = row + 8 * t + g;
    if (pixel < rows) end.template keep<NT>(pixel, kPassPlane, n0, word);
  }

  // 8 windows, one of each position of lanes.
  template <int NT>
  __device__ __forceinline__ void finish_windows(const ForwardEnd& end, int row, int n0, int t,
                                                 const float (&shift)[NT][2],
                                                 const float (&upper)[NT][4],
                                                 const float (&lower)[NT][4]) const {
    const int windows = (layer.out_h / 2) * (layer.out_w / 2);
    const int window = pooled_row(row).window + static_cast<int>(threadIdx.x % 32) / 4;
    float values[NT][2];
    Winners<NT> winners;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float best = upper[j][c] + shift[j][c];
        unsigned int winner = 0;
        const auto enter = [&](float sum, int position) {
          challenge(sum + shift[j][c], Winners<NT>::bits_of(position, j, c), best, winner);
        };
        enter(upper[j][2 + c], 1);
        enter(lower[j][c], 2);
        enter(lower[j][2 + c], 3);
        values[j][c] = best;
        winners.chunks[j / 2] |= winner;
      }
    }
    const bool there = window < windows;
    const unsigned int pass = end.finish(there, window, n0 + 2 * t, values);
    const unsigned int parts[4] = {pass << (2 * t), winners.low() << (2 * t),
                                   winners.high() << (2 * t), 0};
    const unsigned int word = word_of_lane(parts, t);  // lane t: plane t
    if (there && t < end.kept) end.template keep<NT>(window, t, n0, word);
  }
};

}  // namespace sign_ext::onchip
