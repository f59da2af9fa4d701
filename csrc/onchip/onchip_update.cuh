// The end of a step: the input-backward of the first layer, then lines 3 and 4 of Algorithm 1 and
// the bfloat16 copy that the next step reads.
//
// Floor of a pair after a product, in instructions: 12 for two elements (load, multiply, add,
// store, two comparisons and selections for the bounds, and a load, an addition and a store with
// momentum), 8 for what the watch sees of them, 4 for the copy.

#pragma once

#include "common/watch.h"
#include "onchip/onchip_backward.cuh"

namespace sign_ext::onchip {

// The largest |delta| and |q| that a thread has seen, as bits: they order as the numbers do, and
// NaN is larger than infinity.
struct Seen {
  unsigned int delta = 0;
  unsigned int q = 0;

  __device__ __forceinline__ void see(float one_delta, float one_q) {
    see_bits(__float_as_uint(one_delta) & 0x7fffffffu, __float_as_uint(one_q) & 0x7fffffffu);
  }
  __device__ __forceinline__ void see_bits(unsigned int delta_bits, unsigned int q_bits) {
    delta = max(delta, delta_bits);
    q = max(q, q_bits);
  }
  __device__ __forceinline__ bool is_finite() const {
    return max(delta, q) < static_cast<unsigned int>(kInfinityBits);
  }
};

// One tile of the image: positions starting at m0, channels starting at n0.
template <bool kMomentum>
struct UpdateTile {
  const Args& args;
  Arrays arrays;
  unsigned char* shared;
  Divider across;  // by the width of the image
  int step;
  Seen& most;  // of all steps of the thread

  template <int MT, int NT>
  __device__ __forceinline__ void operator()(int m0, int n0) const {
    const Plan& plan = args.plan;
    const Layer& layer = plan.layer[0];
    float sums[MT][NT][4];
    multiply_back(layer, arrays, across, m0, n0, sums);
    const int channel = n0 + 2 * static_cast<int>(threadIdx.x % 4);
    const int channels = plan.channels;
    float scale[NT][2];
    float shift[NT][2];
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int c = channel + kChunk * j + i;  // the constants are padded
        scale[j][i] = args.constants[plan.scale_element + c];
        shift[j][i] = args.constants[plan.shift_element + c];
      }
    }
    float* const p = reinterpret_cast<float*>(shared + plan.p_at);
    float* const velocity = reinterpret_cast<float*>(shared + (kMomentum ? plan.velocity_at : 0));
    const int x_at = plan.forward != 0 ? plan.x_at : -1;
    const int in_c = layer.in_c;
    const int in_shift = layer.in_shift;
    const float step_size = args.step_size;
    const float momentum = args.momentum;
    const float low = args.clamp_min;
    const float high = args.clamp_max;
    Seen seen;
    for_rows(sums, m0, layer.in_h * layer.in_w, [&](int pixel, float (&values)[NT][2]) {
#pragma unroll
      for (int j = 0; j < NT; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int c = channel + kChunk * j + i;
          float x = 0.0f;
          if (c < channels) {
            const int element = pixel * channels + c;
            const float delta = scale[j][i] * values[j][i];
            float v = delta;
            if constexpr (kMomentum) {
              v = momentum * velocity[element] + delta;
              velocity[element] = v;
            }
            float q = p[element] + step_size * v;
            seen.see(delta, q);
            q = q < low ? low : q;
            q = q > high ? high : q;
            p[element] = q;
            x = scale[j][i] * q + shift[j][i];
          }
          values[j][i] = x;
        }
      }
      if (x_at < 0) return;
      unsigned int words[NT];
      pack_row(values, words);
      store_row(shared, x_at + element_at(pixel, channel, in_c, in_shift), words);
    });
    most.see_bits(seen.delta, seen.q);
    // Rare, so it needs no register between steps. counts[0] does not change until all blocks are
    // done.
    if (!seen.is_finite()) atomicMin(&args.counts[1], args.counts[0] + step);
  }
};

}  // namespace sign_ext::onchip
