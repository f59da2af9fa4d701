// onchip: K steps of SIGN (Algorithm 1) in one kernel that keeps an image, its values, cotangents
// and residue bits in shared memory. The network is data: a list of convolutions, each with an
// activation that keeps one bit per element, optional 2x2 max pooling between them, and sums of two
// values before an activation. A linear layer is a convolution as large as its input.
//
//   whole     reads p once from global memory, does K steps, writes p back once
//   forward   one forward pass: writes the last value and the residue bits to global memory
//   backward  from the last value's cotangent and those bits: the image's cotangent and the update
//
// forward and backward are for networks of which only the first layers fit. The remaining layers
// run between the two, as batched products (sign_ext/engine/onchip).
//
// One step, with x = scale p + shift the value of layer -1, and for each layer l
//
//   value_l = activation(max over 2x2 windows(weight_l * value_reads(l) + bias_l + value_adds(l)))
//   delta     = scale * the vector-Jacobian product of the last value with the seed
//   v <- momentum v + delta,  q = p + step_size v,  p <- clamp(q) (sign_update/sign_update.h)
//   watch[0] <- max(watch[0], |delta|),  watch[1] <- max(watch[1], |q|) and the steps are
//   counted (common/watch.h)
//
// Values, weights and cotangents are bfloat16; sums and p are float32. A window's maximum is its
// first one in PyTorch's order, and NaN wins. The same call gives the same bits.
//
// Floor per image and step, by the unit that sets it (BasicCNN at 32x32 in brackets):
//   tensor cores    2 * 2 * multiply-adds of the layers up to the last on chip  [102 MFLOP; 0.13 us
//                   of one H200's 790 TFLOP/s, times 132 multiprocessors: 17 us of one]
//   shared memory   a warp's tile of 16 MT x 8 NT loads 512 MT + 256 NT bytes for MT NT products of
//                   4,096 FLOP, 128 bytes per clock: with 64 x 32 tiles 1.5 clocks per product
//                   against the tensor cores' 1  [42,816 clocks, 24 us at 1.75 GHz; counted by
//                   sign_ext/engine/onchip/cost.py, and by the emulation]
//   global memory   whole: 8 bytes per element of p for all K steps; forward and backward: 12 bytes
//                   per element of p, twice the last value and twice the bits  [75 kB; 17 ns at
//                   4.3 TB/s]; plus the weights that are not kept, from the L2 cache, twice per
//                   step [74 kB per multiprocessor]
// So shared memory sets the floor. This kernel has not been measured on a GPU yet.

#pragma once

#include <cstdint>

namespace sign_ext::onchip {

constexpr int kMostLayers = 24;
constexpr int kMostThreads = 512;  // of a block

// How the weights of a phase get into shared memory.
constexpr int kWeightsThere = 0;       // already there: kept, or used by the previous phase
constexpr int kWeightsPrefetched = 1;  // the previous phase starts the copy
constexpr int kWeightsNow = 2;         // this phase copies them before it starts

// Sizes are in elements. Fields named *_at are byte offsets from the start of shared memory, each
// 128-byte aligned. All words have 4 bytes: sign_ext/engine/onchip/kernel_args.py writes them.
struct Layer {
  std::int32_t in_h, in_w, in_c;  // channels are padded to 16; an image's, if 8 or fewer, to 8
  std::int32_t out_h, out_w, out_c;
  std::int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  std::int32_t reads;           // the layer whose output is the input, -1: the image
  std::int32_t adds;            // the layer whose output is added before the activation, or -1
  std::int32_t pooled;          // 1: followed by 2x2 max pooling
  std::int32_t kept;            // bits kept per output element: 0, 1, or 3 with pooling
  float low, high, slope;       // the activation (common/activation.h)
  std::int32_t weight_element;  // of `weights`, [weight_rows(kernel_h * kernel_w, in_c), out_c]
  std::int32_t bias_element;    // of `constants`, [out_c]
  std::int32_t value_at;        // the output's value; -1: not kept
  std::int32_t residue_at;      // relative to Plan::residues_at
  std::int32_t g_at;            // the cotangent of the convolution's result, before pooling
  // Other cotangents of the input, which this layer's backward adds to its own: the partial sum
  // stored by layers earlier in the backward pass, and that of a layer that adds the input. -1:
  // none.
  std::int32_t partial_at, added_at;
  // 1: the sum goes on through layer `reads`; 0: it is stored as the partial sum.
  std::int32_t hands;
  // The shifts of the input, the output's value, its cotangent and the weights (onchip_layout.h:
  // shift_for).
  std::int32_t in_shift, value_shift, g_shift, weight_shift;
  std::int32_t keeps;  // 1: the weights are copied once, before the first image
  std::int32_t forward_weights_at, forward_load;
  std::int32_t backward_weights_at, backward_load;
};

struct Plan {
  std::int32_t words;  // of this struct; a plan of another layout is rejected
  std::int32_t layers;
  std::int32_t forward, backward;        // whether the step includes those phases
  std::int32_t height, width, channels;  // of the image, without padding
  std::int32_t shared_bytes;
  std::int32_t threads;                  // of a block: 128, 256 or 512
  std::int32_t p_at, velocity_at, x_at;  // the image, its velocity (-1: none), x
  std::int32_t residues_at, residue_bytes;
  std::int32_t zeros_at;                      // 16 bytes of zeros
  std::int32_t scale_element, shift_element;  // of `constants`, [x's padded channels]
  std::int32_t seed_element;                  // of `constants`, [H, W, padded channels]
  std::int32_t last_channels;                 // of the last value, without padding
  Layer layer[kMostLayers];
};

struct Args {
  Plan plan;
  unsigned int images;
  int steps;
  float* p;                      // [images, height, width, channels], updated in place
  float* velocity;               // the same, or null
  const std::uint16_t* weights;  // bfloat16
  const float* constants;        // biases, scale, shift, seed
  std::uint16_t* features;       // forward: the last value, [images, H, W, C], bfloat16
  // [images, residue_bytes]: forward writes it and backward reads it; whole writes those of the
  // last step, unless it is null.
  std::uint8_t* residues;
  const std::uint16_t* cotangent;  // backward: of the last value, like features; null: the seed
  unsigned int* watch;             // [2], floats
  std::int32_t* counts;            // [3], backward only
  float step_size;
  float momentum;
  float clamp_min;
  float clamp_max;
};

// Launches the kernel on `stream` (a cudaStream_t) of the current device and returns at once.
// Returns null on success, else the error message.
const char* run_cuda(const Args& args, void* stream);

}  // namespace sign_ext::onchip
