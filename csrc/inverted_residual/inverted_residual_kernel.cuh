// The kernel of inverted_residual and its input-backward (contract, bytes and floor:
// inverted_residual.h) and the choice of its instantiation. No torch and no runtime call here: nvcc
// compiles this text for the device, the host compiler compiles the same text for csrc/tests.
//
// A block of 8 warps has a tile of whole images. For each 32 of the expanded channels
//
//   expand     16 rows by 32 channels a warp, from `input` to `expanded`               barrier
//   convolve   four lines or positions a warp, from `expanded` to `middle`             barrier
//   project    32 rows by up to 64 channels a warp, from `middle` to registers
//
// while the next chunk's weights are copied beside `convolve`.

#pragma once

#include "common/dynamic_shared.cuh"
#include "inverted_residual/inverted_residual_convolve.cuh"
#include "inverted_residual/inverted_residual_expand.cuh"
#include "inverted_residual/inverted_residual_project.cuh"

namespace sign_ext::block {

template <Precision kPrecision, bool kBackward, int kWidest>
__global__ void __launch_bounds__(kThreads, kWidest == kNarrow ? 2 : 1)
    inverted_residual_kernel(const SIGN_EXT_GRID_CONSTANT Args args,
                             const SIGN_EXT_GRID_CONSTANT Plan plan) {
  const Tile<kPrecision, kBackward> tile(args, plan, dynamic_shared<unsigned char>());
  tile.load_input();
  tile.begin_weights(0);
  wait_for_copies();
  __syncthreads();
  Projection<Tile<kPrecision, kBackward>, kWidest> projection(tile);
  for (int chunk = 0; chunk < plan.chunks; ++chunk) {
    expand(tile, chunk);
    __syncthreads();
    if (chunk + 1 < plan.chunks) tile.begin_weights(chunk + 1);
    convolve(tile, chunk);
    wait_for_copies();
    __syncthreads();
    projection.add(chunk);
  }
  projection.finish();
}

// Calls launch(kernel) with the instantiation that fits. The launcher in the .cu file and the tests
// on the host both choose through this.
template <Precision kPrecision, bool kBackward, typename Launch>
void choose_width(const Plan& plan, Launch&& launch) {
  if (plan.widest == kNarrow) {
    launch(&inverted_residual_kernel<kPrecision, kBackward, kNarrow>);
  } else {
    launch(&inverted_residual_kernel<kPrecision, kBackward, kWide>);
  }
}

template <Precision kPrecision, typename Launch>
void choose_direction(const Args& args, const Plan& plan, Launch&& launch) {
  if (args.backward) {
    choose_width<kPrecision, true>(plan, launch);
  } else {
    choose_width<kPrecision, false>(plan, launch);
  }
}

template <typename Launch>
void choose(const Args& args, const Plan& plan, Launch&& launch) {
  switch (args.precision) {
    case Precision::kFloat32:
      return choose_direction<Precision::kFloat32>(args, plan, launch);
    case Precision::kTensorFloat32:
      return choose_direction<Precision::kTensorFloat32>(args, plan, launch);
    case Precision::kBFloat16:
      return choose_direction<Precision::kBFloat16>(args, plan, launch);
  }
}

inline unsigned int tiles_of(const Sizes& s, const Plan& plan) {
  return static_cast<unsigned int>((s.images + plan.images - 1) / plan.images);
}

}  // namespace sign_ext::block
