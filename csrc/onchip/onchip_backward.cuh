// The backward pass of a layer: the product with the transposed weights, then back through the
// activation and pooling of the preceding layer or, for the first layer, the update of the image.

#pragma once

#include "common/activation.h"
#include "common/pack.cuh"
#include "onchip/onchip_product.cuh"

namespace sign_ext::onchip {

__device__ __forceinline__ void store_pair(const Layer& layer, unsigned char* shared, int pixel,
                                           int channel, float first, float second) {
  const Pack<__nv_bfloat16, 2> both{{narrow<__nv_bfloat16>(first), narrow<__nv_bfloat16>(second)}};
  store_pack(reinterpret_cast<__nv_bfloat16*>(
                 shared + layer.g_at + element_at(pixel, channel, layer.out_c, layer.g_shift)),
             both);
}

// Pulls the cotangent of two channels of a layer's output, at one pixel, back to the layer's
// convolution: blocked ones become 0, and only the first maximum of a window receives one.
__device__ __forceinline__ void hand_back(const Layer& layer, unsigned char* shared,
                                          const std::uint8_t* residues, int pixel, int channel,
                                          float first, float second) {
  if (layer.kept == 0) {
    store_pair(layer, shared, pixel, channel, first, second);
    return;
  }
  const std::uint8_t* const bytes =
      residues + layer.residue_at +
      residue_at(pixel, channel / kChunk, layer.out_c / kChunk, layer.kept);
  const unsigned int pass = bytes[0] >> (channel % kChunk);
  first = pull_back(first, (pass & 1u) != 0, layer.slope);
  second = pull_back(second, (pass & 2u) != 0, layer.slope);
  if (layer.kept == 1) {
    store_pair(layer, shared, pixel, channel, first, second);
    return;
  }
  const unsigned int low = bytes[1] >> (channel % kChunk);
  const unsigned int high = bytes[2] >> (channel % kChunk);
  const unsigned int winner0 = (low & 1u) | (high & 1u) << 1;
  const unsigned int winner1 = (low >> 1 & 1u) | (high & 2u);
  const int across = layer.out_w / 2;
  const int corner = pixel / across * 2 * layer.out_w + pixel % across * 2;
#pragma unroll
  for (unsigned int position = 0; position < kWindow; ++position) {
    const int at =
        corner + static_cast<int>(position / 2) * layer.out_w + static_cast<int>(position % 2);
    store_pair(layer, shared, at, channel, winner0 == position ? first : 0.0f,
               winner1 == position ? second : 0.0f);
  }
}

// Adds the cotangent from another array of cotangents of a layer's output.
__device__ __forceinline__ void add_other(const Layer& layer, const unsigned char* shared, int at,
                                          int pixel, int channel, float (&cotangent)[2]) {
  if (at < 0) return;
  const auto both = load_pack<__nv_bfloat16, 2>(reinterpret_cast<const __nv_bfloat16*>(
      shared + at + element_at(pixel, channel, layer.out_c, layer.g_shift)));
  cotangent[0] += widen(both.values[0]);
  cotangent[1] += widen(both.values[1]);
}

// With an odd height or width, the positions that no window covers get cotangent 0.
__device__ __forceinline__ void clear_uncovered(const Layer& layer, unsigned char* shared) {
  if (layer.pooled == 0 || (layer.out_h % 2 == 0 && layer.out_w % 2 == 0)) return;
  const int pairs = layer.out_c / 2;
  for (int i = static_cast<int>(threadIdx.x); i < layer.out_h * layer.out_w * pairs;
       i += threads()) {
    const int pixel = i / pairs;
    if (pixel / layer.out_w < layer.out_h / 2 * 2 && pixel % layer.out_w < layer.out_w / 2 * 2) {
      continue;
    }
    store_pair(layer, shared, pixel, i % pairs * 2, 0.0f, 0.0f);
  }
}

// What a thread has seen of the steps.
struct Watch {
  unsigned int delta = 0;  // the largest |delta| and |q|, as bits
  unsigned int q = 0;
  int first_bad = 0x7fffffff;

  __device__ __forceinline__ void see(float one_delta, float one_q, int step) {
    constexpr unsigned int kInfinity = 0x7f800000u;
    const unsigned int delta_bits = __float_as_uint(one_delta) & 0x7fffffffu;
    const unsigned int q_bits = __float_as_uint(one_q) & 0x7fffffffu;
    delta = max(delta, delta_bits);
    q = max(q, q_bits);
    if (delta_bits >= kInfinity || q_bits >= kInfinity) first_bad = min(first_bad, step);
  }
};

// Lines 3 and 4 of Algorithm 1 for two channels of a pixel, and x of the next step.
__device__ __forceinline__ void update(const Args& args, unsigned char* shared, int step, int pixel,
                                       int channel, const float (&cotangent)[2], Watch& watch) {
  const Plan& plan = args.plan;
  const float* const scale = args.constants + plan.scale_element;
  const float* const shift = args.constants + plan.shift_element;
  float x[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int c = channel + i;
    if (c >= plan.channels) continue;
    const int element = pixel * plan.channels + c;
    float* const p = reinterpret_cast<float*>(shared + plan.p_at) + element;
    const float delta = scale[c] * cotangent[i];
    float v = delta;
    if (plan.velocity_at >= 0) {
      float* const velocity = reinterpret_cast<float*>(shared + plan.velocity_at) + element;
      v = args.momentum * *velocity + delta;
      *velocity = v;
    }
    float q = *p + args.step_size * v;
    watch.see(delta, q, step);
    q = q < args.clamp_min ? args.clamp_min : q;
    q = q > args.clamp_max ? args.clamp_max : q;
    *p = q;
    x[i] = scale[c] * q + shift[c];
  }
  if (plan.forward == 0) return;
  const Pack<__nv_bfloat16, 2> both{{narrow<__nv_bfloat16>(x[0]), narrow<__nv_bfloat16>(x[1])}};
  store_pack(reinterpret_cast<__nv_bfloat16*>(
                 shared + plan.x_at +
                 element_at(pixel, channel, plan.layer[0].in_c, plan.layer[0].in_shift)),
             both);
}

// One tile of a layer: the input's positions starting at m0, its channels starting at n0.
struct BackwardTile {
  const Args& args;
  int number;  // of the layer
  const Arrays& arrays;
  unsigned char* shared;
  int step;
  Watch& watch;

  // Passes on the input's complete cotangent, or stores its partial sum for a later layer.
  __device__ __forceinline__ void finish(const Layer& layer, int pixel, int channel,
                                         float (&cotangent)[2]) const {
    const Layer& source = args.plan.layer[layer.reads];
    if (layer.hands != 0) {
      add_other(source, shared, layer.partial_at, pixel, channel, cotangent);
      add_other(source, shared, layer.added_at, pixel, channel, cotangent);
      hand_back(source, shared, shared + args.plan.residues_at, pixel, channel, cotangent[0],
                cotangent[1]);
      return;
    }
    const Pack<__nv_bfloat16, 2> both{
        {narrow<__nv_bfloat16>(cotangent[0]), narrow<__nv_bfloat16>(cotangent[1])}};
    store_pack(
        reinterpret_cast<__nv_bfloat16*>(shared + layer.partial_at +
                                         element_at(pixel, channel, source.out_c, source.g_shift)),
        both);
  }

  template <int MT, int NT>
  __device__ __forceinline__ void operator()(int m0, int n0) const {
    const Layer& layer = args.plan.layer[number];
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int pixels = layer.in_h * layer.in_w;
    Rows<MT> from;
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      const int m = m0 + 16 * i + a_row(lane);
      set_backward_row(layer, i, m < pixels, m / layer.in_w, m % layer.in_w, from);
    }
    float sums[MT][NT][4];
    product<true, MT, NT>(layer, arrays, from, n0, sums);
    // 16 rows at a time through the same instructions, as in the forward pass.
#pragma unroll 1
    for (int row = m0; row < m0 + 16 * MT; row += 16) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int pixel = row + 8 * half + lane / 4;
        if (pixel >= pixels) continue;
#pragma unroll
        for (int j = 0; j < NT; ++j) {
          const int channel = n0 + kChunk * j + 2 * (lane % 4);
          float cotangent[2] = {sums[0][j][2 * half], sums[0][j][2 * half + 1]};
          if (number == 0) {
            update(args, shared, step, pixel, channel, cotangent, watch);
          } else {
            finish(layer, pixel, channel, cotangent);
          }
        }
      }
      move_up<1>(sums);
    }
  }
};

}  // namespace sign_ext::onchip
