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
#include "onchip/onchip_forward.cuh"
#include "onchip/onchip_update.cuh"

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
    const Phase first = first_phase();
    if (load_of(first) == kWeightsPrefetched) copy_weights_of(first);
    for (int step = 1; step <= args_.steps; ++step) {
      if (plan_.forward != 0) {
        for (int i = 0; i < plan_.layers; ++i) {
          begin({i, false}, step == args_.steps);
          forward(i);
        }
      }
      if (plan_.backward != 0) {
        __syncthreads();  // the residues are complete
        seed(image);
        for (int i = plan_.layers - 1; i >= 0; --i) {
          begin({i, true}, step == args_.steps);
          backward(i, step);
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
      most_.delta = max(most_.delta, __shfl_xor_sync(0xffffffffu, most_.delta, lanes));
      most_.q = max(most_.q, __shfl_xor_sync(0xffffffffu, most_.q, lanes));
    }
    if (threadIdx.x % 32 == 0) {
      atomicMax(&args_.watch[0], most_.delta);
      atomicMax(&args_.watch[1], most_.q);
    }
    __syncthreads();
    if (threadIdx.x == 0 && is_last_block(args_.counts)) args_.counts[0] += args_.steps;
  }

 private:
  // A layer in one direction.
  struct Phase {
    int layer;
    bool backward;
  };
  __device__ __forceinline__ Phase first_phase() const {
    return plan_.forward != 0 ? Phase{0, false} : Phase{plan_.layers - 1, true};
  }
  __device__ __forceinline__ bool ends_step(Phase phase) const {
    if (phase.backward) return phase.layer == 0;
    return plan_.backward == 0 && phase.layer + 1 == plan_.layers;
  }
  // After the last phase of a step, the first one of the next step.
  __device__ __forceinline__ Phase phase_after(Phase phase) const {
    if (ends_step(phase)) return first_phase();
    if (phase.backward) return {phase.layer - 1, true};
    const int next = phase.layer + 1;
    return next < plan_.layers ? Phase{next, false} : Phase{plan_.layers - 1, true};
  }

  // Waits until a phase's weights are there and the previous phase is done, and starts the copy of
  // the next phase's weights.
  __device__ __forceinline__ void begin(Phase phase, bool last_step) {
    if (load_of(phase) == kWeightsNow) {
      __syncthreads();  // the previous phase is done with the memory
      copy_weights_of(phase);
    }
    wait_for_copies();
    __syncthreads();
    if (last_step && ends_step(phase)) return;
    const Phase next = phase_after(phase);
    if (load_of(next) == kWeightsPrefetched) copy_weights_of(next);
  }

  __device__ __forceinline__ int load_of(Phase phase) const {
    const Layer& layer = plan_.layer[phase.layer];
    return phase.backward ? layer.backward_load : layer.forward_load;
  }
  __device__ __forceinline__ void copy_weights_of(Phase phase) {
    if (phase.layer < 0) return;  // never happens, but GCC's bounds check cannot tell
    const Layer& layer = plan_.layer[phase.layer];
    copy_weights(phase.layer,
                 phase.backward ? layer.backward_weights_at : layer.forward_weights_at);
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

  // Loads 8 channels of the last value's cotangent, in one or two accesses if they are aligned.
  __device__ __forceinline__ void load_seed(std::int64_t image, int pixel, int channel,
                                            float (&values)[kChunk]) const {
    if (args_.cotangent == nullptr) {
      const int out_c = plan_.layer[plan_.layers - 1].out_c;
      load_8(args_.constants + plan_.seed_element + pixel * out_c + channel, values);
      return;
    }
    const int channels = plan_.last_channels;
    const std::int64_t row = image * last_pixels() + pixel;
    const auto* const from =
        reinterpret_cast<const __nv_bfloat16*>(args_.cotangent) + row * channels + channel;
    if (channels % kChunk == 0 && channel < channels &&
        reinterpret_cast<std::uintptr_t>(args_.cotangent) % kChunkBytes == 0) {
      load_8(from, values);
    } else {
      load_up_to_8(from, channels - channel, values);
    }
  }

  template <int kKept>
  __device__ __forceinline__ void seed_chunks(std::int64_t image, const Layer& last) {
    const HandBack to(plan_, last, shared_);
    const int chunks = last.out_c / kChunk;
    const Divider by_chunks = divider(chunks);
    for (int i = static_cast<int>(threadIdx.x); i < last_pixels() * chunks; i += threads()) {
      const int pixel = quotient(i, by_chunks);
      const int channel = (i - pixel * chunks) * kChunk;
      float values[kChunk];
      load_seed(image, pixel, channel, values);
      hand_back_chunk<kKept>(to, pixel, channel, values);
    }
  }

  // Pulls the last value's cotangent back through the last activation and pooling.
  __device__ __forceinline__ void seed(std::int64_t image) {
    const Layer& last = plan_.layer[plan_.layers - 1];
    if (last.kept == 3) {
      seed_chunks<3>(image, last);
    } else if (last.kept == 1) {
      seed_chunks<1>(image, last);
    } else {
      seed_chunks<0>(image, last);
    }
    clear_uncovered(last, shared_);
  }

  template <bool kPooled>
  __device__ __forceinline__ void forward_of(const Layer& layer) {
    const Arrays arrays{shared_, layer.reads < 0 ? plan_.x_at : plan_.layer[layer.reads].value_at,
                        layer.forward_weights_at, plan_.zeros_at};
    const ForwardTile<kPooled> tile{plan_,
                                    layer,
                                    arrays,
                                    shared_,
                                    args_.constants + layer.bias_element,
                                    divider(kPooled ? layer.out_w / 2 : layer.out_w)};
    for_tiles<2>(forward_rows(layer.out_h, layer.out_w, kPooled), layer.out_c, tile);
  }

  __device__ __forceinline__ void forward(int number) {
    const Layer& layer = plan_.layer[number];
    if (layer.pooled != 0) {
      forward_of<true>(layer);
    } else {
      forward_of<false>(layer);
    }
  }

  template <int kKept>
  __device__ __forceinline__ void backward_of(const Layer& layer, const Arrays& arrays) {
    const BackwardTile<kKept> tile{plan_, layer, arrays, shared_, divider(layer.in_w)};
    for_tiles<2>(layer.in_h * layer.in_w, layer.in_c, tile);
    if (layer.hands != 0) clear_uncovered(plan_.layer[layer.reads], shared_);
  }

  template <bool kMomentum>
  __device__ __forceinline__ void update(const Layer& layer, const Arrays& arrays, int step) {
    const UpdateTile<kMomentum> tile{args_, arrays, shared_, divider(layer.in_w), step, most_};
    for_tiles<1>(layer.in_h * layer.in_w, layer.in_c, tile);
  }

  __device__ __forceinline__ void backward(int number, int step) {
    const Layer& layer = plan_.layer[number];
    const Arrays arrays{shared_, layer.g_at, layer.backward_weights_at, plan_.zeros_at};
    if (number == 0) {
      if (plan_.velocity_at >= 0) {
        update<true>(layer, arrays, step);
      } else {
        update<false>(layer, arrays, step);
      }
      return;
    }
    // A partial sum is stored as it is.
    const int kept = layer.hands != 0 ? plan_.layer[layer.reads].kept : 0;
    if (kept == 3) {
      backward_of<3>(layer, arrays);
    } else if (kept == 1) {
      backward_of<1>(layer, arrays);
    } else {
      backward_of<0>(layer, arrays);
    }
  }

  const Args& args_;
  const Plan& plan_;
  unsigned char* shared_;
  Seen most_;
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
