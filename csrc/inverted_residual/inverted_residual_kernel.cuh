// The kernel of inverted_residual and its input-backward (contract, bytes and floor:
// inverted_residual.h) and the selection of its instantiation. There are no torch headers and no
// runtime calls here: nvcc compiles this source for the device, and the host compiler compiles the
// same source for csrc/tests.
//
// A block of 8 warps processes a tile of whole images. For each 32 of the expanded channels:
//
//   expand     16 rows by 32 channels per warp, from `input` to `expanded`             barrier
//   convolve   four lines or positions per warp, from `expanded` to `middle`           barrier
//   project    32 rows by up to 64 channels per warp, from `middle` to registers
//
// The next chunk's weights are copied during `convolve`.

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

// Calls launch(kernel) with the instantiation that fits. The launcher in the .cu file and the host
// tests both select through this.
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
