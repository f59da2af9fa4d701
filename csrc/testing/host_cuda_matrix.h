// Tensor-core instructions and asynchronous copies (common/tensor_cores.cuh) on the emulated warps.
// Matrices are loaded through the addresses that lanes pass, and fragments are spread over lanes as
// on the device. The product itself is a plain one with float32 sums or, if a test asks for it,
// truncated as on the device.
//
// A copy's target holds garbage until the thread that started the copy waits for it, so a thread
// that reads it too early reads garbage. A thread must wait for its copies before it returns.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "common/half_bits.h"
#include "testing/host_cuda_intrinsics.h"
#include "testing/host_cuda_launch.h"

namespace host_cuda {

constexpr unsigned int kWholeWarp = 0xffffffffu;

// What warps have done since the program started: products, and bytes loaded.
struct MatrixCounts {
  std::uint64_t products = 0;
  std::uint64_t loaded = 0;
};
inline MatrixCounts& matrix_counts() {
  static thread_local MatrixCounts counts;
  return counts;
}

// What lane `source` passes.
inline std::uint64_t from_lane(const char* name, const Place& place, std::uint64_t brought,
                               int source) {
  return Launch::current().exchange(name, place, kWholeWarp, brought, source).value;
}

inline std::uint16_t element_of_row(std::uint64_t row, int column) {
  std::uint16_t element;
  std::memcpy(&element, reinterpret_cast<const std::uint16_t*>(row) + column, sizeof(element));
  return element;
}

template <int kMatrices, bool kTransposed>
void load_matrices_of_warp(const char* name, const Place& place, unsigned int (&r)[kMatrices],
                           const void* row) {
  const int lane = Launch::current().lane();
  const int g = lane / 4;
  const int t = lane % 4;
  if (lane < 8 * kMatrices) require_aligned(row, 16);
  if (lane == 0) matrix_counts().loaded += 128 * kMatrices;
  const auto brought = reinterpret_cast<std::uint64_t>(row);
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    std::uint32_t low;
    std::uint32_t high;
    if constexpr (kTransposed) {
      low = element_of_row(from_lane(name, place, brought, 8 * matrix + 2 * t), g);
      high = element_of_row(from_lane(name, place, brought, 8 * matrix + 2 * t + 1), g);
    } else {
      const std::uint64_t address = from_lane(name, place, brought, 8 * matrix + g);
      low = element_of_row(address, 2 * t);
      high = element_of_row(address, 2 * t + 1);
    }
    r[matrix] = low | high << 16;
  }
}

template <int kMatrices>
void load_matrices(unsigned int (&r)[kMatrices], const void* array, int byte,
                   Place place = Place::current()) {
  load_matrices_of_warp<kMatrices, false>("ldmatrix", place, r,
                                          static_cast<const unsigned char*>(array) + byte);
}

template <int kMatrices>
void load_transposed(unsigned int (&r)[kMatrices], const void* array, int byte,
                     Place place = Place::current()) {
  load_matrices_of_warp<kMatrices, true>("ldmatrix.trans", place, r,
                                         static_cast<const unsigned char*>(array) + byte);
}

// One of the four bfloat16 in two registers.
inline float half_of(std::uint64_t registers, int which) {
  return sign_ext::bfloat16_bits_to_float(static_cast<std::uint16_t>(registers >> (16 * which)));
}

// Whether products are summed as on the device or, by default, plainly in float32.
inline bool& tensor_cores_truncate() {
  static bool truncates = false;
  return truncates;
}

// The sum of c and the products, each aligned to the exponent of the largest and truncated after
// its 24 bits. The devices that have been examined (Fasi et al., "Numerical behavior of NVIDIA
// tensor cores", PeerJ Computer Science 2021) add 4 to 16 products at once and keep up to a few
// more bits.
template <int kCount>
float truncated_sum(float c, const float (&products)[kCount]) {
  float plain = c;
  float size = std::fabs(c);
  for (const float product : products) {
    plain += product;
    size = std::max(size, std::fabs(product));
  }
  if (!std::isfinite(plain) || size == 0.0f) return plain;
  const int largest = std::ilogb(size) + 1;
  double sum = 0.0;  // of integers below 2^24, so exact
  const auto add = [&sum, largest](float term) {
    sum += std::trunc(std::ldexp(static_cast<double>(term), 24 - largest));
  };
  add(c);
  for (const float product : products) add(product);
  const double exact = std::ldexp(sum, largest - 24);
  const auto near = static_cast<float>(exact);
  return std::fabs(near) > std::fabs(exact) ? std::nextafter(near, 0.0f) : near;
}

// d += a b. Two registers of lane u, of four, hold kElements columns of a row of A (TF32: u and u +
// 4; bfloat16: 2u, 2u + 1, 2u + 8 and 2u + 9), or the corresponding rows of a column of B.
// `element` extracts one.
template <int kElements, typename Element>
void multiply_add_of_warp(const Place& place, float (&d)[4], const unsigned int (&a)[4],
                          unsigned int b0, unsigned int b1, Element&& element) {
  const int lane = Launch::current().lane();
  const int g = lane / 4;
  const int t = lane % 4;
  const auto pair = [](unsigned int low, unsigned int high) {
    return static_cast<std::uint64_t>(low) | static_cast<std::uint64_t>(high) << 32;
  };
  if (lane == 0) ++matrix_counts().products;
  float products[4][2 * kElements];
  for (int u = 0; u < 4; ++u) {
    const std::uint64_t rows[2] = {
        from_lane("mma", place, pair(a[0], a[2]), 4 * g + u),
        from_lane("mma", place, pair(a[1], a[3]), 4 * g + u),
    };
    const std::uint64_t columns[2] = {
        from_lane("mma", place, pair(b0, b1), 4 * (2 * t) + u),
        from_lane("mma", place, pair(b0, b1), 4 * (2 * t + 1) + u),
    };
    for (int k = 0; k < kElements; ++k) {
      for (int i = 0; i < 4; ++i) {
        const float product = element(rows[i / 2], k) * element(columns[i % 2], k);
        if (tensor_cores_truncate()) {
          products[i][u % 2 * kElements + k] = product;
        } else {
          d[i] += product;
        }
      }
    }
    if (!tensor_cores_truncate() || u % 2 == 0) continue;
    for (int i = 0; i < 4; ++i) d[i] = truncated_sum(d[i], products[i]);
  }
}

inline void multiply_add(float (&d)[4], const unsigned int (&a)[4], unsigned int b0,
                         unsigned int b1, Place place = Place::current()) {
  multiply_add_of_warp<4>(place, d, a, b0, b1, half_of);
}

// Tensor cores use only the upper 19 bits of an element.
inline float tf32_of(std::uint64_t registers, int which) {
  return __uint_as_float(static_cast<unsigned int>(registers >> (32 * which)) & ~0x1fffu);
}

inline unsigned int round_to_tf32(unsigned int bits) {
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (finite ? bits + 0x1000u : bits) & ~0x1fffu;
}

inline void multiply_add_tf32(float (&d)[4], const unsigned int (&a)[4], unsigned int b0,
                              unsigned int b1, Place place = Place::current()) {
  multiply_add_of_warp<2>(place, d, a, b0, b1, tf32_of);
}

struct PendingCopy {
  void* shared;
  const void* global;
};

// Those of the calling thread.
inline std::vector<PendingCopy>& pending_copies() {
  static thread_local std::vector<std::vector<PendingCopy>> threads(1024);
  return threads[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
}

inline void copy_async_16(void* shared, const void* global) {
  require_aligned(shared, 16);
  require_aligned(global, 16);
  Launch::current().fill_with_garbage(shared, 16);
  pending_copies().push_back({shared, global});
}

inline void wait_for_copies() {
  for (const PendingCopy& copy : pending_copies()) std::memcpy(copy.shared, copy.global, 16);
  pending_copies().clear();
}

}  // namespace host_cuda
