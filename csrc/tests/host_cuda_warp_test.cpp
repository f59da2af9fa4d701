// The emulation of warp collectives, atomics and scalar functions.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/device.cuh"
#include "tests/check.h"

namespace {

constexpr int kSeeds = 40;
constexpr unsigned int kAll = 0xffffffffu;

struct Shuffled {
  float to_all, from_5, up_3, down_3, crossed_5;
  int segment_up_2, segment_down_2, segment_crossed_9, segment_from_9;
};

__global__ void shuffle(Shuffled* out) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const float mine = static_cast<float>(lane) + 0.5f;
  Shuffled& result = out[threadIdx.x];
  float sum = mine;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  result.to_all = sum;
  result.from_5 = __shfl_sync(kAll, mine, 5);
  result.up_3 = __shfl_up_sync(kAll, mine, 3);
  result.down_3 = __shfl_down_sync(kAll, mine, 3);
  result.crossed_5 = __shfl_xor_sync(kAll, mine, 5);
  result.segment_up_2 = __shfl_up_sync(kAll, lane, 2, 8);
  result.segment_down_2 = __shfl_down_sync(kAll, lane, 2, 8);
  result.segment_crossed_9 = __shfl_xor_sync(kAll, lane, 9, 8);
  result.segment_from_9 = __shfl_sync(kAll, lane, 9, 8);
}

TEST(shuffles_take_the_value_of_the_lane_that_cuda_says) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<Shuffled> out(96);
    host_cuda::launch_seeded(seed, &shuffle, dim3(1), dim3(96), out.data());
    for (int thread = 0; thread < 96; ++thread) {
      const int lane = thread % 32;
      const auto of = [](int source) { return static_cast<float>(source) + 0.5f; };
      const Shuffled& r = out[static_cast<std::size_t>(thread)];
      const std::string who = "lane " + std::to_string(lane);
      CHECK(r.to_all == 512.0f, who + ": sum " + std::to_string(r.to_all));
      CHECK(r.from_5 == of(5), who + ": from lane 5");
      CHECK(r.up_3 == of(lane < 3 ? lane : lane - 3), who + ": up");
      CHECK(r.down_3 == of(lane > 28 ? lane : lane + 3), who + ": down");
      CHECK(r.crossed_5 == of(lane ^ 5), who + ": crossed");
      CHECK(r.segment_up_2 == (lane % 8 < 2 ? lane : lane - 2), who + ": up in a segment");
      CHECK(r.segment_down_2 == (lane % 8 > 5 ? lane : lane + 2), who + ": down in a segment");
      // A lane past the segment is out of reach; one before it is not.
      const int crossed = lane ^ 9;
      CHECK(r.segment_crossed_9 == (crossed > (lane | 7) ? lane : crossed), who + ": crossed 9");
      CHECK(r.segment_from_9 == (lane & ~7) + 1, who + ": from lane 9 % 8");
    }
  }
}

__global__ void vote(unsigned int* ballots, int* any, int* all) {
  const unsigned int lane = threadIdx.x;
  // The two halves vote separately, the lower one twice.
  if (lane < 16) {
    ballots[lane] = __ballot_sync(0xffffu, lane % 3 == 0);
    ballots[lane] |= __ballot_sync(0xffffu, lane == 5) << 16;
    any[lane] = __any_sync(0xffffu, lane == 7);
    all[lane] = __all_sync(0xffffu, lane < 16);
  } else {
    ballots[lane] = __ballot_sync(0xffff0000u, lane % 3 == 0);
    any[lane] = __any_sync(0xffff0000u, lane == 7);
    all[lane] = __all_sync(0xffff0000u, lane < 31);
  }
  // A lane outside the mask gives nothing.
  if (lane < 16) {
    const float from_outside = __shfl_sync(0xffffu, 1.0f, 20);
    if (!(std::isnan(from_outside) || from_outside > 1e38f)) ballots[lane] = 0;
  }
}

TEST(votes_count_the_lanes_of_the_mask) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    unsigned int ballots[32];
    int any[32], all[32];
    host_cuda::launch_seeded(seed, &vote, dim3(1), dim3(32), ballots, any, all);
    for (int lane = 0; lane < 32; ++lane) {
      const bool low = lane < 16;
      unsigned int thirds = 0;
      for (int i = low ? 0 : 16; i < (low ? 16 : 32); i += 1) {
        if (i % 3 == 0) thirds |= 1u << i;
      }
      CHECK(ballots[lane] == (thirds | (low ? 1u << 21 : 0u)), "ballot of " + std::to_string(lane));
      CHECK((any[lane] != 0) == low, "any of " + std::to_string(lane));
      CHECK((all[lane] != 0) == low, "all of " + std::to_string(lane));
    }
  }
}

// A warp passes a value through shared memory, with or without __syncwarp.
template <bool kBarrier>
__global__ void hand_on(int* out) {
  __shared__ int tile[64];
  const unsigned int thread = threadIdx.x;
  tile[thread] = static_cast<int>(thread);
  if constexpr (kBarrier) __syncwarp();
  out[thread] = tile[thread ^ 1];
}

TEST(a_warps_barrier_orders_its_lanes) {
  int wrong_with = 0, wrong_without = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    int with[64], without[64];
    host_cuda::launch_seeded(seed, &hand_on<true>, dim3(1), dim3(64), with);
    host_cuda::launch_seeded(seed, &hand_on<false>, dim3(1), dim3(64), without);
    for (int i = 0; i < 64; ++i) {
      wrong_with += with[i] != (i ^ 1) ? 1 : 0;
      wrong_without += without[i] != (i ^ 1) ? 1 : 0;
    }
  }
  CHECK(wrong_with == 0, "wrong despite __syncwarp");
  CHECK(wrong_without > 0, "always right without __syncwarp");
}

__global__ void accumulate(int* sum, unsigned int* bits, int* largest, float* total,
                           unsigned long long* wide, unsigned int* tickets) {
  const auto index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(sum, index);
  atomicOr(bits, 1u << (index % 32));
  atomicMax(largest, index % 77);
  atomicAdd(total, 0.5f);
  atomicAdd(wide, 1ull << 33);
  tickets[atomicAdd(bits + 1, 1u)] = 1;
}

TEST(atomics_lose_nothing) {
  int sum = 0, largest = -5;
  unsigned int bits[2] = {0, 0};
  float total = 0.0f;
  unsigned long long wide = 0;
  std::vector<unsigned int> tickets(300, 0);
  host_cuda::launch(&accumulate, dim3(3), dim3(100), &sum, bits, &largest, &total, &wide,
                    tickets.data());
  CHECK(sum == 300 * 299 / 2 && largest == 76 && total == 150.0f, "sum, largest or total");
  CHECK(bits[0] == kAll && bits[1] == 300 && wide == 300ull << 33, "bits, count or wide sum");
  CHECK(std::count(tickets.begin(), tickets.end(), 1u) == 300, "two threads had one ticket");
}

TEST(scalar_functions_are_those_of_cuda) {
  CHECK(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64, "popc");
  CHECK(__clz(0) == 32 && __clz(1) == 31 && __clz(-1) == 0, "clz");
  CHECK(__ffs(0) == 0 && __ffs(8) == 4, "ffs");
  CHECK(__float_as_uint(-0.0f) == 0x80000000u && __float_as_int(1.0f) == 0x3f800000, "bits");
  CHECK(__uint_as_float(0x40400000u) == 3.0f && __int_as_float(0) == 0.0f, "floats");
  CHECK(__fmaf_rn(1.0f + 0x1p-12f, 1.0f + 0x1p-12f, -1.0f) == 0x1p-11f + 0x1p-24f, "fma");
  CHECK(max(-3, 2) == 2 && min(3u, 2u) == 2u, "integers");
  CHECK(max(std::nanf(""), 2.0f) == 2.0f && min(1.0f, 2.0f) == 1.0f,
        "min and max of floats must ignore NaN");
  const float value = 4.0f;
  CHECK(__ldg(&value) == 4.0f, "ldg");
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
