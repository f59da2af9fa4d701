// The CUDA kernel of onchip (contract and floor: onchip.h). A block processes one image at a time,
// and all of that image's step happens in the block's shared memory. There are no torch headers and
// no runtime calls here: nvcc compiles this source for the device, and the host compiler compiles
// the same source for the tests.
//
// A step is a sequence of phases, one per layer and direction, with a barrier between them. The
// weights of a phase are already in shared memory, or are copied during the previous phase, or are
// copied and waited for: the plan says which. The plan also says where everything lies; arrays that
// are never live in the same phase share memory.

#pragma once

#include "common/dynamic_shared.cuh"
#include "common/watch.cuh"
#include "onchip/onchip_backward.cuh"
#include "onchip/onchip_forward.cuh"

namespace sign_ext::onchip {

// One thread's view of the image that its block processes.
class Image {
 public:
  __device__ __forceinline__ Image(const Args& args, unsigned char* shared)
      : args_(args), plan_(args.plan), shared_(shared) {}

  // Writes what stays for all images: zeros, and the weights that are kept.
  __device__ __forceinline__ void prepare() {
    if (threadIdx.x < 4) reinterpret_cast<float*>(shared_ + plan_.zeros_at)[threadIdx.x] = 0.0f;
    for (int i = 0; i < plan_.layers; ++i) {
      if (plan_.layer[i].keeps != 0) copy_weights(i, plan_.layer[i].forward_weights_at);
    }
    wait_for_copies();
  }

  __device__ __forceinline__ void run(unsigned int image) {
    __syncthreads();  // no thread still reads the previous image
    load(image);
    const int phases = phase_count();
    if (load_of(0) == kWeightsPrefetched) copy_weights_of(0);
    for (int step = 1; step <= args_.steps; ++step) {
      const bool last = step == args_.steps;
      for (int phase = 0; phase < phases; ++phase) {
        if (is_backward(phase) && layer_of(phase) == plan_.layers - 1) {
          __syncthreads();  // the residues are complete
          seed(image);
        }
        if (load_of(phase) == kWeightsNow) {
          __syncthreads();  // the previous phase is done with the memory
          copy_weights_of(phase);
        }
        wait_for_copies();
        __syncthreads();
        const int next = phase + 1 < phases ? phase + 1 : 0;
        if ((next > 0 || !last) && load_of(next) == kWeightsPrefetched) copy_weights_of(next);
        if (is_backward(phase)) {
          backward(layer_of(phase), step);
        } else {
          forward(layer_of(phase));
        }
      }
    }
    __syncthreads();
    store(image);
  }

  // Reports the watch of all images of a warp to global memory. The last block counts the steps.
  __device__ __forceinline__ void report() {
    if (plan_.backward == 0) return;
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      watch_.delta = max(watch_.delta, __shfl_xor_sync(0xffffffffu, watch_.delta, lanes));
      watch_.q = max(watch_.q, __shfl_xor_sync(0xffffffffu, watch_.q, lanes));
      watch_.first_bad =
          min(watch_.first_bad, __shfl_xor_sync(0xffffffffu, watch_.first_bad, lanes));
    }
    if (threadIdx.x % 32 == 0) {
      atomicMax(&args_.watch[0], watch_.delta);
      atomicMax(&args_.watch[1], watch_.q);
      // counts[0] does not change until all blocks are done.
      if (watch_.first_bad <= args_.steps) {
        atomicMin(&args_.counts[1], args_.counts[0] + watch_.first_bad);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0 && is_last_block(args_.counts)) args_.counts[0] += args_.steps;
  }

 private:
  __device__ __forceinline__ int forward_phases() const {
    return plan_.forward != 0 ? plan_.layers : 0;
  }
  __device__ __forceinline__ int phase_count() const {
    return forward_phases() + (plan_.backward != 0 ? plan_.layers : 0);
  }
  __device__ __forceinline__ bool is_backward(int phase) const { return phase >= forward_phases(); }
  __device__ __forceinline__ int layer_of(int phase) const {
    const int count = forward_phases();
    return phase < count ? phase : plan_.layers - 1 - (phase - count);
  }
  __device__ __forceinline__ int load_of(int phase) const {
    const Layer& layer = plan_.layer[layer_of(phase)];
    return is_backward(phase) ? layer.backward_load : layer.forward_load;
  }
  __device__ __forceinline__ void copy_weights_of(int phase) {
    const int number = layer_of(phase);
    if (number < 0) return;  // never happens, but GCC's bounds check cannot tell
    const Layer& layer = plan_.layer[number];
    copy_weights(number, is_backward(phase) ? layer.backward_weights_at : layer.forward_weights_at);
  }

  __device__ __forceinline__ void copy_weights(int number, int at) {
    const Layer& layer = plan_.layer[number];
    const int bytes = weight_rows(layer.kernel_h * layer.kernel_w, layer.in_c) * layer.out_c * 2;
    const auto* const from =
        reinterpret_cast<const unsigned char*>(args_.weights + layer.weight_element);
    for (int byte = static_cast<int>(threadIdx.x) * kChunkBytes; byte < bytes;
         byte += threads() * kChunkBytes) {
      copy_async_16(shared_ + at + swizzled(byte, layer.weight_shift), from + byte);
    }
  }

  __device__ __forceinline__ std::int64_t elements() const {
    return std::int64_t{plan_.height} * plan_.width * plan_.channels;
  }

  // Copies 4-byte words from or to the image's part of a global array.
  template <typename Word>
  __device__ __forceinline__ void copy_in(int at, const Word* global, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads()) {
      reinterpret_cast<Word*>(shared_ + at)[i] = global[i];
    }
  }
  template <typename Word>
  __device__ __forceinline__ void copy_out(Word* global, int at, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads()) {
      global[i] = reinterpret_cast<const Word*>(shared_ + at)[i];
    }
  }

  __device__ __forceinline__ void load(std::int64_t image) {
    const int count = static_cast<int>(elements());
    copy_in(plan_.p_at, args_.p + image * elements(), count);
    if (plan_.velocity_at >= 0) {
      copy_in(plan_.velocity_at, args_.velocity + image * elements(), count);
    }
    if (plan_.forward == 0) {
      copy_in(plan_.residues_at,
              reinterpret_cast<const unsigned int*>(args_.residues + image * plan_.residue_bytes),
              plan_.residue_bytes / 4);
      return;
    }
    __syncthreads();
    const int padded = plan_.layer[0].in_c;
    const auto* const p = reinterpret_cast<const float*>(shared_ + plan_.p_at);
    for (int i = static_cast<int>(threadIdx.x); i < plan_.height * plan_.width * padded;
         i += threads()) {
      const int pixel = i / padded;
      const int c = i % padded;
      float x = 0.0f;
      if (c < plan_.channels) {
        x = args_.constants[plan_.scale_element + c] * p[pixel * plan_.channels + c] +
            args_.constants[plan_.shift_element + c];
      }
      *reinterpret_cast<__nv_bfloat16*>(shared_ + plan_.x_at +
                                        element_at(pixel, c, padded, plan_.layer[0].in_shift)) =
          narrow<__nv_bfloat16>(x);
    }
  }

  // The number of positions of the last value.
  __device__ __forceinline__ int last_pixels() const {
    const Layer& last = plan_.layer[plan_.layers - 1];
    return last.pooled != 0 ? (last.out_h / 2) * (last.out_w / 2) : last.out_h * last.out_w;
  }

  __device__ __forceinline__ void store(std::int64_t image) {
    const int count = static_cast<int>(elements());
    if (plan_.forward != 0 && args_.residues != nullptr) {
      copy_out(reinterpret_cast<unsigned int*>(args_.residues + image * plan_.residue_bytes),
               plan_.residues_at, plan_.residue_bytes / 4);
    }
    if (plan_.backward != 0) {
      copy_out(args_.p + image * elements(), plan_.p_at, count);
      if (plan_.velocity_at >= 0) {
        copy_out(args_.velocity + image * elements(), plan_.velocity_at, count);
      }
      return;
    }
    const Layer& last = plan_.layer[plan_.layers - 1];
    const int channels = plan_.last_channels;
    std::uint16_t* const features = args_.features + image * last_pixels() * channels;
    for (int i = static_cast<int>(threadIdx.x); i < last_pixels() * channels; i += threads()) {
      features[i] = *reinterpret_cast<const std::uint16_t*>(
          shared_ + last.value_at +
          element_at(i / channels, i % channels, last.out_c, last.value_shift));
    }
  }

  __device__ __forceinline__ float seed_of(std::int64_t image, int pixel, int channel) const {
    const Layer& last = plan_.layer[plan_.layers - 1];
    if (args_.cotangent == nullptr) {
      return args_.constants[plan_.seed_element + pixel * last.out_c + channel];
    }
    if (channel >= plan_.last_channels) return 0.0f;
    const std::int64_t row = image * last_pixels() + pixel;
    const auto* const cotangent = reinterpret_cast<const __nv_bfloat16*>(args_.cotangent);
    return widen(cotangent[row * plan_.last_channels + channel]);
  }

  // Pulls the last value's cotangent back through the last activation and pooling.
  __device__ __forceinline__ void seed(std::int64_t image) {
    const Layer& last = plan_.layer[plan_.layers - 1];
    const int pairs = last.out_c / 2;
    for (int i = static_cast<int>(threadIdx.x); i < last_pixels() * pairs; i += threads()) {
      const int pixel = i / pairs;
      const int channel = i % pairs * 2;
      hand_back(last, shared_, shared_ + plan_.residues_at, pixel, channel,
                seed_of(image, pixel, channel), seed_of(image, pixel, channel + 1));
    }
    clear_uncovered(last, shared_);
  }

  __device__ __forceinline__ void forward(int number) {
    const Layer& layer = plan_.layer[number];
    const Arrays arrays{shared_, layer.reads < 0 ? plan_.x_at : plan_.layer[layer.reads].value_at,
                        layer.forward_weights_at, plan_.zeros_at};
    const ForwardTile tile{plan_,
                           layer,
                           arrays,
                           shared_,
                           shared_ + plan_.residues_at,
                           args_.constants + layer.bias_element};
    for_tiles<2>(forward_rows(layer.out_h, layer.out_w, layer.pooled != 0), layer.out_c, tile);
  }

  __device__ __forceinline__ void backward(int number, int step) {
    const Layer& layer = plan_.layer[number];
    const Arrays arrays{shared_, layer.g_at, layer.backward_weights_at, plan_.zeros_at};
    const BackwardTile tile{args_, number, arrays, shared_, step, watch_};
    for_tiles<1>(layer.in_h * layer.in_w, layer.in_c, tile);
    if (layer.hands != 0) clear_uncovered(plan_.layer[layer.reads], shared_);
  }

  const Args& args_;
  const Plan& plan_;
  unsigned char* shared_;
  Watch watch_;
};

// Limited to 128 registers, so that a multiprocessor holds 512 threads, in one block or more.
__global__ void __launch_bounds__(kMostThreads, 1)
    onchip_kernel(const SIGN_EXT_GRID_CONSTANT Args args) {
  Image image(args, dynamic_shared<unsigned char>());
  image.prepare();
  for (unsigned int i = blockIdx.x; i < args.images; i += gridDim.x) image.run(i);
  image.report();
}

}  // namespace sign_ext::onchip
