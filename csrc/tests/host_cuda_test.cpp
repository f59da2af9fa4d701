// The emulation itself: it must run every thread of a launch, treat shared memory as a device does,
// and turn a missing barrier into a wrong result.

#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "common/dynamic_shared.cuh"
#include "tests/check.h"

namespace {

constexpr int kSeeds = 40;

__device__ unsigned int block_index() {
  return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
}

__device__ unsigned int thread_index() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

__global__ void count_visits(int* visits) {
  ++visits[block_index() * blockDim.x * blockDim.y * blockDim.z + thread_index()];
}

TEST(every_thread_runs_once) {
  for (const dim3 grid : {dim3(1), dim3(3, 2, 5), dim3(6, 6)}) {
    const dim3 block(7, 3, 2);
    std::vector<int> visits(std::size_t{grid.x} * grid.y * grid.z * 7 * 3 * 2, 0);
    host_cuda::launch(&count_visits, grid, block, visits.data());
    for (const int count : visits)
      CHECK(count == 1, "a thread ran " + std::to_string(count) + " times");
  }
}

__global__ void record_order(std::vector<unsigned int>* order) {
  order->push_back(block_index() * 1000 + thread_index());
  __syncthreads();
  order->push_back(block_index() * 1000 + thread_index() + 500);
}

TEST(a_seed_draws_the_order_of_blocks_and_of_threads_between_barriers) {
  std::set<std::vector<unsigned int>> orders;
  std::set<unsigned int> first_blocks;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<unsigned int> order, again;
    host_cuda::launch_seeded(seed, &record_order, dim3(3), dim3(5), &order);
    host_cuda::launch_seeded(seed, &record_order, dim3(3), dim3(5), &again);
    CHECK(order == again, "one seed gave two orders");
    CHECK(order.size() == 30, "a thread is missing");
    for (std::size_t i = 0; i < order.size(); ++i) {
      CHECK(order[i] / 1000 == order[i / 10 * 10] / 1000, "two blocks were mixed");
      CHECK((order[i] % 1000 >= 500) == (i % 10 >= 5), "a thread passed the barrier too early");
    }
    first_blocks.insert(order[0] / 1000);
    orders.insert(order);
  }
  CHECK(orders.size() > kSeeds / 2, "seeds do not change the order");
  CHECK(first_blocks.size() == 3, "seeds do not change which block comes first");
}

// A tree reduction in shared memory over a block of any size. kBarrier = false omits its barriers.
template <typename T, int kThreads, bool kBarrier>
__global__ void block_sum(const T* values, T* sums) {
  __shared__ T tile[kThreads];
  const unsigned int thread = threadIdx.x;
  tile[thread] = values[blockIdx.x * kThreads + thread];
  if constexpr (kBarrier) __syncthreads();
  for (unsigned int width = kThreads; width > 1; width = (width + 1) / 2) {
    const unsigned int half = (width + 1) / 2;
    if (thread + half < width) tile[thread] += tile[thread + half];
    if constexpr (kBarrier) __syncthreads();
  }
  if (thread == 0) sums[blockIdx.x] = tile[0];
}

// The number of seeds that give the right sums.
template <typename T, int kThreads, bool kBarrier>
int right_sums() {
  std::vector<T> values(3 * kThreads);
  std::iota(values.begin(), values.end(), T{1});
  int right = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<T> sums(3, T{0});
    host_cuda::launch_seeded(seed, &block_sum<T, kThreads, kBarrier>, dim3(3), dim3(kThreads),
                             values.data(), sums.data());
    bool all = true;
    for (int b = 0; b < 3; ++b) {
      const int expected = kThreads * kThreads * b + kThreads * (kThreads + 1) / 2;
      all = all && sums[static_cast<std::size_t>(b)] == static_cast<T>(expected);
    }
    right += all ? 1 : 0;
  }
  return right;
}

TEST(a_block_adds_up_in_shared_memory) {
  CHECK((right_sums<float, 64, true>() == kSeeds), "float, 64 threads");
  CHECK((right_sums<unsigned int, 64, true>() == kSeeds), "unsigned int, 64 threads");
  CHECK((right_sums<double, 1000, true>() == kSeeds), "double, 1000 threads");
  CHECK((right_sums<float, 1, true>() == kSeeds), "one thread");
}

TEST(a_missing_barrier_shows) {
  CHECK((right_sums<float, 64, false>() == 0), "64 threads without barriers gave a right sum");
  CHECK((right_sums<unsigned int, 3, false>() < kSeeds),
        "3 threads without barriers were always right");
}

// Writes, then reads what the thread below wrote: right by luck if threads run in order.
__global__ void read_below(int* out) {
  __shared__ int tile[32];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = tile[threadIdx.x == 0 ? 0 : threadIdx.x - 1];
}

TEST(a_missing_barrier_shows_even_where_the_usual_order_would_hide_it) {
  int wrong = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    int out[32];
    host_cuda::launch_seeded(seed, &read_below, dim3(1), dim3(32), out);
    for (int i = 1; i < 32; ++i) wrong += out[i] != i - 1 ? 1 : 0;
  }
  CHECK(wrong > kSeeds, "reading before the barrier was never wrong");
}

__device__ __forceinline__ float first_element() {
  __shared__ __align__(16) float inner[3];
  const float before = inner[0];
  inner[0] = 1.0f;
  return before;
}

// Two shared arrays in the kernel and one in a function that it calls: what they hold when a block
// starts.
template <int N>
__global__ void read_unwritten(float* out) {
  __shared__ float tile[N];
  const float before = tile[N - 1];
  tile[N - 1] = 1.0f;
  __shared__ float other[N][2];
  out[blockIdx.x * 4] = before;
  out[blockIdx.x * 4 + 1] = other[N / 2][1];
  other[N / 2][1] = 1.0f;
  out[blockIdx.x * 4 + 2] = first_element();
  out[blockIdx.x * 4 + 3] = tile[N - 1];
}

bool garbage(float value) { return std::isnan(value) || std::fabs(value) > 1e38f; }

TEST(shared_memory_is_garbage_at_the_start_of_every_block) {
  const auto look = [](auto kernel) {
    std::vector<float> out(4 * 5);
    host_cuda::launch(kernel, dim3(5), dim3(1), out.data());
    for (std::size_t i = 0; i < out.size(); i += 4) {
      CHECK(garbage(out[i]), "the first array held " + std::to_string(out[i]));
      CHECK(garbage(out[i + 1]), "the second array held " + std::to_string(out[i + 1]));
      CHECK(garbage(out[i + 2]), "the callee's array held " + std::to_string(out[i + 2]));
      CHECK(out[i + 3] == 1.0f, "what the block wrote is gone");
    }
  };
  look(&read_unwritten<7>);
  look(&read_unwritten<33>);
}

template <typename T>
__global__ void reverse_in_dynamic_memory(T* values, T* before) {
  T* const tile = sign_ext::dynamic_shared<T>();
  if (threadIdx.x == 0) before[blockIdx.x] = tile[blockDim.x - 1];
  __syncthreads();
  T* const mine = values + blockIdx.x * blockDim.x;
  tile[threadIdx.x] = mine[threadIdx.x];
  __syncthreads();
  mine[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

TEST(dynamic_shared_memory_has_the_size_of_the_launch_and_holds_garbage) {
  for (const unsigned int threads : {1u, 37u, 1024u}) {
    std::vector<float> values(2 * threads), before(2);
    std::iota(values.begin(), values.end(), 0.0f);
    host_cuda::launch_with({.seed = threads, .dynamic_shared_bytes = threads * sizeof(float)},
                           &reverse_in_dynamic_memory<float>, dim3(2), dim3(threads), values.data(),
                           before.data());
    CHECK(garbage(before[0]) && garbage(before[1]), "a block started with known values");
    for (unsigned int i = 0; i < 2 * threads; ++i) {
      const unsigned int expected = i < threads ? threads - 1 - i : 3 * threads - 1 - i;
      CHECK(values[i] == static_cast<float>(expected), "value " + std::to_string(i));
    }
  }
}

__global__ void count_at_barriers(int* count, int* any, int* all) {
  const unsigned int thread = thread_index();
  count[thread] = __syncthreads_count(thread % 4 == 1);
  any[thread] = __syncthreads_or(thread == 9) * 2 + __syncthreads_or(0);
  all[thread] = __syncthreads_and(1) * 2 + __syncthreads_and(thread != 9);
}

TEST(barriers_count_the_threads_of_the_block) {
  int count[70], any[70], all[70];
  host_cuda::launch(&count_at_barriers, dim3(1), dim3(10, 7), count, any, all);
  for (int i = 0; i < 70; ++i) {
    CHECK(count[i] == 18, "count " + std::to_string(count[i]));
    CHECK(any[i] / 2 != 0 && any[i] % 2 == 0, "or " + std::to_string(any[i]));
    CHECK(all[i] / 2 != 0 && all[i] % 2 == 0, "and " + std::to_string(all[i]));
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
