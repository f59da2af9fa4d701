// The kernel of inverted_residual and its input-backward, and the choice of its instantiation.

#pragma once

#include "common/dynamic_shared.cuh"
#include "inverted_residual/inverted_residual_tile.cuh"

namespace sign_ext::block {

template <Precision kPrecision, bool kBackward, int kWidest>
__global__ void __launch_bounds__(kThreads, kWidest == kNarrow ? 2 : 1)
    inverted_residual_kernel(const SIGN_EXT_GRID_CONSTANT Args args,
                             const SIGN_EXT_GRID_CONSTANT Plan plan) {
  Tile<kPrecision, kBackward, kWidest>(args, plan, dynamic_shared<unsigned char>()).run();
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
