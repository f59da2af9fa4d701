// What a device would reject, or hang on, must end the emulation with a message. Each case needs
// its own process: given the name of a case, this program must stop, and ctest checks the message
// (CMakeLists.txt).

#include <map>
#include <string>

#include "common/dynamic_shared.cuh"
#include "common/pack.cuh"
#include "tests/check.h"

namespace {

TEST(packs_carry_every_lane) {
  alignas(16) const float source[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  alignas(16) float target[8] = {};
  sign_ext::store_pack<float, 4>(target + 4, sign_ext::load_pack<float, 4>(source));
  for (int i = 0; i < 4; ++i) {
    CHECK(target[i] == 0.0f && target[i + 4] == static_cast<float>(i),
          "a value is in the wrong place");
  }
}

constexpr unsigned int kAll = 0xffffffffu;

__global__ void return_before_the_barrier(int* out) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  *out = 1;
}

__global__ void part_at_two_barriers(int* out) {
  if (threadIdx.x < 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  *out = 1;
}

__global__ void shuffle_without_a_lane(int* out) {
  if (threadIdx.x == 5) return;
  out[0] = __shfl_xor_sync(kAll, 1, 16);
}

__global__ void shuffle_outside_the_mask(int* out) { out[0] = __shfl_sync(0xffffu, 1, 0); }

__global__ void vote_and_shuffle(int* out) {
  out[0] = threadIdx.x % 2 == 0 ? __shfl_sync(kAll, 1, 0) : __any_sync(kAll, 1);
}

__global__ void wait_in_a_warp_and_at_a_barrier(int* out) {
  if (threadIdx.x < 32) __syncwarp(threadIdx.x < 31 ? 0x7fffffffu : 0x80000000u);
  if (threadIdx.x == 40) __syncwarp();
  __syncthreads();
  *out = 1;
}

__global__ void misaligned_access(int* out) {
  out[0] = sign_ext::load_pack<int, 4>(out + 1).values[0];
}

__global__ void write_past_a_tile(int* out) {
  __shared__ int tile[33];
  int* volatile pointer = tile;
  pointer[threadIdx.x] = 1;
  out[0] = pointer[0];
}

__global__ void write_past_dynamic_memory(int* out) {
  sign_ext::dynamic_shared<int>()[threadIdx.x] = 1;
  out[0] = 1;
}

const std::map<std::string, void (*)(int*)> kKernels = {
    {"misaligned_access", &misaligned_access},
    {"return_before_the_barrier", &return_before_the_barrier},
    {"part_at_two_barriers", &part_at_two_barriers},
    {"shuffle_without_a_lane", &shuffle_without_a_lane},
    {"shuffle_outside_the_mask", &shuffle_outside_the_mask},
    {"vote_and_shuffle", &vote_and_shuffle},
    {"wait_in_a_warp_and_at_a_barrier", &wait_in_a_warp_and_at_a_barrier},
    {"write_past_a_tile", &write_past_a_tile},
    {"write_past_dynamic_memory", &write_past_dynamic_memory},
};

}  // namespace

int main(int argc, char** argv) {
  const auto kernel = kKernels.find(argc > 1 ? argv[1] : "");
  if (kernel == kKernels.end()) return check::run(argc, argv);
  const unsigned int threads = kernel->first == "part_at_two_barriers" ? 4
                               : kernel->first == "write_past_a_tile"  ? 34
                                                                       : 64;
  alignas(16) int out[64] = {};
  host_cuda::launch_with({.seed = 1, .dynamic_shared_bytes = 63 * sizeof(int)}, kernel->second,
                         dim3(2), dim3(threads), out);
  return 0;
}
