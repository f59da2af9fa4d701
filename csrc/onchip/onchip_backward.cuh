// The backward pass of a layer: the product with the transposed weights, then back through the
// activation and pooling of the preceding layer. The first layer's ends in the update of the image
// instead (onchip_update.cuh).
//
// After the product, a lane works row by row (onchip_rows.cuh): the cotangents are rounded to
// bfloat16 first, and an activation and a pooling then are masks of their bits.
//
// Floor of a pair after a product, in instructions: 1 conversion; per store 1 for the mask, 1 to
// apply it, and the store, of which there are 4 with pooling.

#pragma once

#include "common/activation.h"
#include "onchip/onchip_product.cuh"
#include "onchip/onchip_rows.cuh"

namespace sign_ext::onchip {

// Where the cotangent of a layer's output goes: back through its pooling and activation to its
// convolution. Read from the plan once per tile.
struct HandBack {
  __device__ __forceinline__ HandBack(const Plan& plan, const Layer& layer,
                                      unsigned char* shared_memory)
      : shared(shared_memory),
        residues_at(plan.residues_at + layer.residue_at),
        g_at(layer.g_at),
        channels(layer.out_c),
        width(layer.out_w),
        shift(layer.g_shift),
        slope(layer.slope),
        across(divider(layer.pooled != 0 ? layer.out_w / 2 : layer.out_w)) {}

  // The byte of a position's channel, relative to the start of an array of cotangents.
  __device__ __forceinline__ int element(int pixel, int channel) const {
    return element_at(pixel, channel, channels, shift);
  }

  // The first position of a window.
  __device__ __forceinline__ int corner(int window) const {
    const int y = quotient(window, across);
    return 2 * y * width + 2 * (window - y * (width / 2));
  }
  __device__ __forceinline__ int position(int corner, int number) const {
    return corner + number / 2 * width + number % 2;
  }

  // NT bytes of a plane of a position.
  template <int NT>
  __device__ __forceinline__ unsigned int plane(int pixel, int number, int first, int kept) const {
    const int at = residue_at(pixel, number, first / kChunk, channels / kChunk, kept);
    return load_plane<NT>(shared + residues_at + at);
  }

  // Stores a row of NT pairs, channels from `first` on: blocked cotangents become 0, or `slope`
  // times as large, and of a window only the first maximum receives one.
  template <int kKept, int NT>
  __device__ __forceinline__ void finish(int pixel, int first, int t,
                                         const float (&values)[NT][2]) const {
    const int channel = first + 2 * t;
    unsigned int words[NT];
    pack_row(values, words);
    if constexpr (kKept > 0) {
      RowBits bits{plane<NT>(pixel, kPassPlane, first, kKept), 0, 0};
      pull_back_row(values, bits.pass, t, slope, words);
      if constexpr (kKept == 3) {
        bits.low = plane<NT>(pixel, kLowPlane, first, kKept);
        bits.high = plane<NT>(pixel, kHighPlane, first, kKept);
        const int begin = corner(pixel);
#pragma unroll
        for (int number = 0; number < kWindow; ++number) {
          const PairBits here = pair_bits(winners_at(bits, number), t);
          unsigned int own[NT];
#pragma unroll
          for (int j = 0; j < NT; ++j) own[j] = words[j] & pair_mask(here, j);
          store_row(shared, g_at + element(position(begin, number), channel), own);
        }
        return;
      }
    }
    store_row(shared, g_at + element(pixel, channel), words);
  }

  unsigned char* shared;
  int residues_at, g_at, channels, width, shift;
  float slope;
  Divider across;
};

// One chunk of a position's cotangent, as finish() does it for a row of pairs.
template <int kKept>
__device__ __forceinline__ void hand_back_chunk(const HandBack& to, int pixel, int channel,
                                                const float (&values)[kChunk]) {
  RowBits bits{};
  if constexpr (kKept > 0) bits.pass = to.plane<1>(pixel, kPassPlane, channel, kKept);
  if constexpr (kKept == 3) {
    bits.low = to.plane<1>(pixel, kLowPlane, channel, kKept);
    bits.high = to.plane<1>(pixel, kHighPlane, channel, kKept);
  }
  Pack<unsigned int, 4> words;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const float pair[1][2] = {{values[2 * t], values[2 * t + 1]}};
    unsigned int word[1];
    pack_row(pair, word);
    if constexpr (kKept > 0) pull_back_row(pair, bits.pass, t, to.slope, word);
    words.values[t] = word[0];
  }
  const auto store = [&to, channel](int at, const Pack<unsigned int, 4>& chunk) {
    store_pack(reinterpret_cast<unsigned int*>(to.shared + to.g_at + to.element(at, channel)),
               chunk);
  };
  if constexpr (kKept == 3) {
    const int corner = to.corner(pixel);
#pragma unroll
    for (int number = 0; number < kWindow; ++number) {
      const unsigned int here = winners_at(bits, number);
      Pack<unsigned int, 4> own;
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        own.values[t] = words.values[t] & pair_mask(pair_bits(here, t), 0);
      }
      store(to.position(corner, number), own);
    }
  } else {
    store(pixel, words);
  }
}

// With an odd height or width, the positions that no window covers get cotangent 0: the last line,
// and of the other lines the last position.
__device__ __forceinline__ void clear_uncovered(const Layer& layer, unsigned char* shared) {
  if (layer.pooled == 0) return;
  const int height = layer.out_h / 2 * 2;
  const int width = layer.out_w / 2 * 2;
  const int last_line = (layer.out_h - height) * layer.out_w;
  const int count = last_line + (layer.out_w - width) * height;
  const int chunks = layer.out_c / kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < count * chunks; i += threads()) {
    const int place = i / chunks;
    const int pixel = place < last_line ? height * layer.out_w + place
                                        : (place - last_line) * layer.out_w + width;
    const int at = element_at(pixel, i % chunks * kChunk, layer.out_c, layer.g_shift);
    store_pack(reinterpret_cast<unsigned int*>(shared + layer.g_at + at), Pack<unsigned int, 4>{});
  }
}

// The product of a tile of a layer's backward pass: the input's positions starting at m0, its
// channels starting at n0.
template <int MT, int NT>
__device__ __forceinline__ void multiply_back(const Layer& layer, const Arrays& arrays,
                                              Divider across, int m0, int n0,
                                              float (&sums)[MT][NT][4]) {
  const int pixels = layer.in_h * layer.in_w;
  const Stride down = stride_of(layer.stride_h);
  const Stride right = stride_of(layer.stride_w);
  Rows<MT> from;
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    const int m = m0 + 16 * i + a_row(static_cast<int>(threadIdx.x % 32));
    const int y = quotient(m, across);
    set_backward_row(layer, down, right, i, m < pixels, y, m - y * layer.in_w, from);
  }
  product<true, MT, NT>(layer, arrays, from, n0, sums);
}

// Calls body(pixel, values) for each of a lane's rows of a tile that exists.
template <int MT, int NT, typename Body>
__device__ __forceinline__ void for_rows(const float (&sums)[MT][NT][4], int m0, int pixels,
                                         Body&& body) {
#pragma unroll
  for (int i = 0; i < MT; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pixel = m0 + 16 * i + 8 * half + static_cast<int>(threadIdx.x % 32) / 4;
      if (pixel >= pixels) continue;
      float values[NT][2];
#pragma unroll
      for (int j = 0; j < NT; ++j) {
        values[j][0] = sums[i][j][2 * half];
        values[j][1] = sums[i][j][2 * half + 1];
      }
      body(pixel, values);
    }
  }
}

// One tile of a layer that reads another layer's value. It passes on the value's complete
// cotangent, through a layer that keeps kKept bits, or (kKept is 0) stores its partial sum for a
// layer that comes later.
template <int kKept>
struct BackwardTile {
  const Plan& plan;
  const Layer& layer;
  Arrays arrays;
  unsigned char* shared;
  Divider across;  // by the width of the input

  template <int MT, int NT>
  __device__ __forceinline__ void operator()(int m0, int n0) const {
    float sums[MT][NT][4];
    multiply_back(layer, arrays, across, m0, n0, sums);
    const int t = static_cast<int>(threadIdx.x % 4);
    HandBack to(plan, plan.layer[layer.reads], shared);
    int partial_at = layer.partial_at;
    const int added_at = layer.added_at;
    if (layer.hands == 0) {
      to.g_at = partial_at;
      partial_at = -1;
    }
    for_rows(sums, m0, layer.in_h * layer.in_w, [&](int pixel, float (&values)[NT][2]) {
      const int element = to.element(pixel, n0 + 2 * t);
      if (partial_at >= 0) add_row(shared, partial_at + element, values);
      if (added_at >= 0) add_row(shared, added_at + element, values);
      to.finish<kKept>(pixel, n0, t, values);
    });
  }
};

}  // namespace sign_ext::onchip
