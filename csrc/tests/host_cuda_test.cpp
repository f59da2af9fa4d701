// The emulation itself: it must visit what a launch visits, and stop at what a device would refuse.

#include <cstdlib>
#include <string>
#include <vector>

#include "common/pack.cuh"
#include "tests/check.h"

namespace {

__global__ void count_visits(int* visits) {
  const unsigned int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  ++visits[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

TEST(every_thread_runs_once) {
  const dim3 grid(3, 2, 5);
  const dim3 block(7, 3, 2);
  std::vector<int> visits(3 * 2 * 5 * 7 * 3 * 2, 0);
  host_cuda::launch(&count_visits, grid, block, visits.data());
  for (const int count : visits)
    CHECK(count == 1, "a thread ran " + std::to_string(count) + " times");
}

TEST(packs_carry_every_lane) {
  alignas(16) const float source[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  alignas(16) float target[8] = {};
  sign_ext::store_pack<float, 4>(target + 4, sign_ext::load_pack<float, 4>(source));
  for (int i = 0; i < 4; ++i) {
    CHECK(target[i] == 0.0f && target[i + 4] == static_cast<float>(i), "a lane went astray");
  }
}

}  // namespace

// With the argument "misaligned" it makes the access that must end the program; ctest expects that.
int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "misaligned") {
    alignas(16) static const float values[8] = {};
    return static_cast<int>(sign_ext::load_pack<float, 4>(values + 1).values[0]);
  }
  return check::run(argc, argv);
}
