// The emulated tensor cores against plain products: each instruction on its own, on values whose
// sums are exact.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "common/tensor_cores.cuh"
#include "tests/check.h"

namespace {

using Elements = std::vector<std::uint16_t>;

Elements random_elements(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  Elements elements(count);
  for (auto& element : elements) {
    element = sign_ext::float_to_bfloat16_bits(static_cast<float>(random() % 17) - 8.0f);
  }
  return elements;
}

float value(std::uint16_t bits) { return sign_ext::bfloat16_bits_to_float(bits); }

// d = a b with a [16, 16], b [16, 8]; b's rows in memory are b's rows, or its columns.
__global__ void product_kernel(const std::uint16_t* a, const std::uint16_t* b, float* d,
                               bool columns) {
  __shared__ __align__(16) std::uint16_t left[16 * 16];
  __shared__ __align__(16) std::uint16_t right[16 * 8];
  for (unsigned int i = threadIdx.x; i < 256; i += 32) left[i] = a[i];
  for (unsigned int i = threadIdx.x; i < 128; i += 32) right[i] = b[i];
  __syncthreads();
  const unsigned int lane = threadIdx.x;
  unsigned int in[4];
  sign_ext::load_matrices(in, left, static_cast<int>((lane % 16) * 32 + lane / 16 * 16));
  unsigned int with[2];
  if (columns) {
    sign_ext::load_matrices(with, right, static_cast<int>((lane % 8) * 32 + lane / 8 % 2 * 16));
  } else {
    sign_ext::load_transposed(with, right, static_cast<int>((lane % 16) * 16));
  }
  float sum[4] = {0, 0, 0, 0};
  sign_ext::multiply_add(sum, in, with[0], with[1]);
  for (unsigned int e = 0; e < 4; ++e) {
    d[(lane / 4 + 8 * (e / 2)) * 8 + lane % 4 * 2 + e % 2] = sum[e];
  }
}

TEST(a_product_of_fragments_is_the_product) {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    for (const bool columns : {false, true}) {
      const Elements a = random_elements(256, 2 * seed);
      const Elements b = random_elements(128, 2 * seed + 1);
      std::vector<float> d(128, -1.0f);
      host_cuda::launch_seeded(seed, &product_kernel, 1, 32, a.data(), b.data(), d.data(), columns);
      for (std::size_t row = 0; row < 16; ++row) {
        for (std::size_t column = 0; column < 8; ++column) {
          float expected = 0;
          for (std::size_t k = 0; k < 16; ++k) {
            expected +=
                value(a[row * 16 + k]) * value(b[columns ? column * 16 + k : k * 8 + column]);
          }
          CHECK(d[row * 8 + column] == expected, "wrong product");
        }
      }
    }
  }
}

// The same in TF32, a [16, 8] and b [8, 8]. a is rounded after loading, b only if the caller asks.
__global__ void tf32_kernel(const float* a, const float* b, float* d, bool rounded) {
  __shared__ __align__(16) float left[16 * 8];
  for (unsigned int i = threadIdx.x; i < 128; i += 32) left[i] = a[i];
  __syncthreads();
  const unsigned int lane = threadIdx.x;
  unsigned int in[4];
  sign_ext::load_matrices(in, left, static_cast<int>((lane % 16) * 32 + lane / 16 * 16));
  for (unsigned int& element : in) element = sign_ext::round_to_tf32(element);
  unsigned int with[2];
  for (unsigned int i = 0; i < 2; ++i) {
    with[i] = __float_as_uint(b[(lane % 4 + 4 * i) * 8 + lane / 4]);
    if (rounded) with[i] = sign_ext::round_to_tf32(with[i]);
  }
  float sum[4] = {0, 0, 0, 0};
  sign_ext::multiply_add_tf32(sum, in, with[0], with[1]);
  for (unsigned int e = 0; e < 4; ++e) {
    d[(lane / 4 + 8 * (e / 2)) * 8 + lane % 4 * 2 + e % 2] = sum[e];
  }
}

// The nearest multiple of `quantum`, ties away from zero, or else the next one towards zero.
float to_multiple(float value, float quantum, bool nearest) {
  return (nearest ? std::round(value / quantum) : std::trunc(value / quantum)) * quantum;
}

TEST(a_product_in_tf32_takes_ten_bits_of_mantissa) {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    std::vector<float> a(128);
    std::vector<float> b(64);
    // In [1, 2) with 13 fractional bits, 3 more than are used; some are ties.
    for (auto& element : a) element = 1.0f + static_cast<float>(random() % 8192) / 8192.0f;
    for (auto& element : b) element = -1.0f - static_cast<float>(random() % 8192) / 8192.0f;
    for (const bool rounded : {false, true}) {
      std::vector<float> d(128);
      host_cuda::launch_seeded(seed, &tf32_kernel, 1, 32, a.data(), b.data(), d.data(), rounded);
      for (std::size_t row = 0; row < 16; ++row) {
        for (std::size_t column = 0; column < 8; ++column) {
          float expected = 0;
          for (std::size_t k = 0; k < 8; ++k) {
            expected += to_multiple(a[row * 8 + k], 1.0f / 1024, true) *
                        to_multiple(b[k * 8 + column], 1.0f / 1024, rounded);
          }
          CHECK(check::near(static_cast<double>(d[row * 8 + column]), static_cast<double>(expected),
                            1e-5),
                "wrong product");
        }
      }
    }
  }
}

// Bits shifted out of the largest term's 24 are lost, whether or not they would round up.
TEST(a_sum_is_truncated_as_on_the_device) {
  const float last = std::ldexp(1.0f, -23);  // of 1
  const float small[2] = {0.75f * last, 0.75f * last};
  CHECK(host_cuda::truncated_sum(1.0f, small) == 1.0f, "rounded up");
  CHECK(host_cuda::truncated_sum(0.0f, small) == 1.5f * last, "lost bits to no larger term");
  const float negative[2] = {-1.75f * last, -0.5f * last};
  CHECK(host_cuda::truncated_sum(-1.0f, negative) == -1.0f - last, "not rounded towards zero");
  const float cancelling[2] = {4.0f, -4.0f};
  CHECK(host_cuda::truncated_sum(3 * last, cancelling) == 0.0f, "a small term outlives large ones");
  const float carrying[2] = {2.0f - last, 2.0f - last};  // 24 bits each, 25 in the sum
  CHECK(host_cuda::truncated_sum(last, carrying) == 4.0f - 2 * last, "the sum is not truncated");
  for (std::uint32_t seed = 0; seed < 4; ++seed) {
    const Elements a = random_elements(256, 2 * seed);
    const Elements b = random_elements(128, 2 * seed + 1);
    std::vector<float> plain(128);
    std::vector<float> cut(128, -1.0f);
    host_cuda::launch_seeded(seed, &product_kernel, 1, 32, a.data(), b.data(), plain.data(), false);
    host_cuda::tensor_cores_truncate() = true;
    host_cuda::launch_seeded(seed, &product_kernel, 1, 32, a.data(), b.data(), cut.data(), false);
    host_cuda::tensor_cores_truncate() = false;
    CHECK(plain == cut, "integers must be exact either way");
  }
}

// Four matrices at once, plain and transposed, one per register.
__global__ void four_kernel(const std::uint16_t* from, unsigned int* straight,
                            unsigned int* transposed) {
  __shared__ __align__(16) std::uint16_t rows[32 * 8];
  for (unsigned int i = threadIdx.x; i < 256; i += 32) rows[i] = from[i];
  __syncthreads();
  unsigned int r[4];
  sign_ext::load_matrices(r, rows, static_cast<int>(threadIdx.x * 16));
  for (unsigned int j = 0; j < 4; ++j) straight[threadIdx.x * 4 + j] = r[j];
  sign_ext::load_transposed(r, rows, static_cast<int>(threadIdx.x * 16));
  for (unsigned int j = 0; j < 4; ++j) transposed[threadIdx.x * 4 + j] = r[j];
}

TEST(four_matrices_are_loaded_into_four_registers) {
  const Elements from = random_elements(256, 7);
  std::vector<unsigned int> straight(128);
  std::vector<unsigned int> transposed(128);
  host_cuda::launch_seeded(3, &four_kernel, 1, 32, from.data(), straight.data(), transposed.data());
  for (std::size_t lane = 0; lane < 32; ++lane) {
    const std::size_t g = lane / 4;
    const std::size_t t = lane % 4;
    for (std::size_t j = 0; j < 4; ++j) {
      const auto at = [&](std::size_t row, std::size_t column) -> unsigned int {
        return from[(8 * j + row) * 8 + column];
      };
      CHECK(straight[lane * 4 + j] == (at(g, 2 * t) | at(g, 2 * t + 1) << 16), "straight");
      CHECK(transposed[lane * 4 + j] == (at(2 * t, g) | at(2 * t + 1, g) << 16), "transposed");
    }
  }
}

// A copy is visible after the wait, and not before.
__global__ void copy_kernel(const float* from, float* early, float* late) {
  __shared__ __align__(16) float tile[64 * 4];
  sign_ext::copy_async_16(tile + 4 * threadIdx.x, from + 4 * threadIdx.x);
  early[threadIdx.x] = tile[4 * threadIdx.x];
  sign_ext::wait_for_copies();
  __syncthreads();
  late[threadIdx.x] = tile[4 * ((threadIdx.x + 1) % 64) + 3];
}

TEST(a_copy_is_there_after_the_wait_only) {
  alignas(16) float from[256];
  for (int i = 0; i < 256; ++i) from[i] = static_cast<float>(i);
  std::vector<float> early(64);
  std::vector<float> late(64);
  host_cuda::launch_seeded(5, &copy_kernel, 1, 64, from, early.data(), late.data());
  for (std::size_t i = 0; i < 64; ++i) {
    CHECK(early[i] != from[4 * i], "the copy was visible before the wait");
    CHECK(late[i] == from[4 * ((i + 1) % 64) + 3], "wrong value");
  }
}

}  // namespace

int main(int argc, char** argv) { return check::run(argc, argv); }
