// The functions that threads of a kernel call to cooperate, and a few of CUDA's scalar functions.
//
// Collectives take the same mask of lanes as CUDA's, plus the source location that messages name,
// which kernels leave out. A lane that reads the value of a lane outside the mask gets garbage.
// __activemask is not provided: which lanes run together is up to the device, and no result may
// depend on it.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>

#include "testing/host_cuda_launch.h"

namespace host_cuda {

inline void require_aligned(const void* address, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    char text[64];
    std::snprintf(text, sizeof(text), "misaligned %zu-byte access at %p", alignment, address);
    Launch::current().stop(text);
  }
}

template <typename To, typename From>
To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}

// A shuffle. A `source` of -1 means the lane's own value.
template <typename T>
T shuffle(const char* name, const Place& place, unsigned int mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  Launch& launch = Launch::current();
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  bits = launch.exchange(name, place, mask, bits, source < 0 ? launch.lane() : source).value;
  T result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void require_width(const char* name, int width) {
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    Launch::current().stop(std::string(name) + " of width " + std::to_string(width) +
                           ", which is not a power of 2 up to 32, called");
  }
}

// The first and last lane of the caller's segment of `width` lanes.
struct Segment {
  int lane, first, last;
  explicit Segment(int width)
      : lane(Launch::current().lane()), first(lane & ~(width - 1)), last(first + width - 1) {}
};

}  // namespace host_cuda

inline void __syncthreads(host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::Launch::current().sync_block("__syncthreads", place, false);
}
inline int __syncthreads_count(int predicate,
                               host_cuda::Place place = host_cuda::Place::current()) {
  return host_cuda::Launch::current().sync_block("__syncthreads_count", place, predicate != 0);
}
inline int __syncthreads_or(int predicate, host_cuda::Place place = host_cuda::Place::current()) {
  return host_cuda::Launch::current().sync_block("__syncthreads_or", place, predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate, host_cuda::Place place = host_cuda::Place::current()) {
  return host_cuda::Launch::current().sync_block("__syncthreads_and", place, predicate == 0) == 0;
}

inline void __syncwarp(unsigned int mask = 0xffffffffu,
                       host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::Launch& launch = host_cuda::Launch::current();
  launch.exchange("__syncwarp", place, mask, 0, launch.lane());
}

template <typename T>
T __shfl_sync(unsigned int mask, T value, int source, int width = warpSize,
              host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::require_width("__shfl_sync", width);
  const host_cuda::Segment segment(width);
  return host_cuda::shuffle("__shfl_sync", place, mask, value,
                            segment.first + (source & (width - 1)));
}

template <typename T>
T __shfl_up_sync(unsigned int mask, T value, unsigned int delta, int width = warpSize,
                 host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::require_width("__shfl_up_sync", width);
  const host_cuda::Segment segment(width);
  const bool inside = delta <= static_cast<unsigned int>(segment.lane - segment.first);
  return host_cuda::shuffle("__shfl_up_sync", place, mask, value,
                            inside ? segment.lane - static_cast<int>(delta) : -1);
}

template <typename T>
T __shfl_down_sync(unsigned int mask, T value, unsigned int delta, int width = warpSize,
                   host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::require_width("__shfl_down_sync", width);
  const host_cuda::Segment segment(width);
  const bool inside = delta <= static_cast<unsigned int>(segment.last - segment.lane);
  return host_cuda::shuffle("__shfl_down_sync", place, mask, value,
                            inside ? segment.lane + static_cast<int>(delta) : -1);
}

template <typename T>
T __shfl_xor_sync(unsigned int mask, T value, int lanes, int width = warpSize,
                  host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::require_width("__shfl_xor_sync", width);
  const host_cuda::Segment segment(width);
  const int source = segment.lane ^ lanes;
  return host_cuda::shuffle("__shfl_xor_sync", place, mask, value,
                            source >= 0 && source <= segment.last ? source : -1);
}

inline unsigned int __ballot_sync(unsigned int mask, int predicate,
                                  host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::Launch& launch = host_cuda::Launch::current();
  return launch.exchange("__ballot_sync", place, mask, predicate != 0, launch.lane()).ballot;
}
inline int __any_sync(unsigned int mask, int predicate,
                      host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::Launch& launch = host_cuda::Launch::current();
  return launch.exchange("__any_sync", place, mask, predicate != 0, launch.lane()).ballot != 0;
}
inline int __all_sync(unsigned int mask, int predicate,
                      host_cuda::Place place = host_cuda::Place::current()) {
  host_cuda::Launch& launch = host_cuda::Launch::current();
  return launch.exchange("__all_sync", place, mask, predicate != 0, launch.lane()).ballot == mask;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// Atomics: threads run one at a time, so only the alignment needs checking.
namespace host_cuda {

template <typename T, typename Change>
T atomically(T* address, Change&& change) {
  require_aligned(address, sizeof(T));
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace host_cuda

inline int atomicAdd(int* address, int value) {
  return host_cuda::atomically(address, [value](int old) {
    return static_cast<int>(static_cast<unsigned int>(old) + static_cast<unsigned int>(value));
  });
}
inline unsigned int atomicAdd(unsigned int* address, unsigned int value) {
  return host_cuda::atomically(address, [value](unsigned int old) { return old + value; });
}
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  return host_cuda::atomically(address, [value](unsigned long long old) { return old + value; });
}
inline float atomicAdd(float* address, float value) {
  return host_cuda::atomically(address, [value](float old) { return old + value; });
}

#define HOST_CUDA_ATOMICS_OF(type)                                                         \
  inline type atomicMax(type* address, type value) {                                       \
    return host_cuda::atomically(address,                                                  \
                                 [value](type old) { return old < value ? value : old; }); \
  }                                                                                        \
  inline type atomicMin(type* address, type value) {                                       \
    return host_cuda::atomically(address,                                                  \
                                 [value](type old) { return value < old ? value : old; }); \
  }                                                                                        \
  inline type atomicOr(type* address, type value) {                                        \
    return host_cuda::atomically(address, [value](type old) { return old | value; });      \
  }                                                                                        \
  inline type atomicAnd(type* address, type value) {                                       \
    return host_cuda::atomically(address, [value](type old) { return old & value; });      \
  }                                                                                        \
  inline type atomicExch(type* address, type value) {                                      \
    return host_cuda::atomically(address, [value](type) { return value; });                \
  }                                                                                        \
  inline type atomicCAS(type* address, type expected, type value) {                        \
    return host_cuda::atomically(address,                                                  \
                                 [=](type old) { return old == expected ? value : old; }); \
  }
HOST_CUDA_ATOMICS_OF(int)
HOST_CUDA_ATOMICS_OF(unsigned int)
HOST_CUDA_ATOMICS_OF(unsigned long long)
#undef HOST_CUDA_ATOMICS_OF

template <typename T>
T __ldg(const T* address) {
  host_cuda::require_aligned(address, alignof(T));
  return *address;
}

inline int __popc(unsigned int bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __clz(int bits) {
  return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned int>(bits));
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline int __float_as_int(float value) { return host_cuda::same_bits<int>(value); }
inline unsigned int __float_as_uint(float value) {
  return host_cuda::same_bits<unsigned int>(value);
}
inline float __int_as_float(int bits) { return host_cuda::same_bits<float>(bits); }
inline float __uint_as_float(unsigned int bits) { return host_cuda::same_bits<float>(bits); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }

// CUDA's min and max. If one of two floats is NaN, they return the other.
template <typename T>
  requires std::is_arithmetic_v<T>
T min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
  return b < a ? b : a;
}
template <typename T>
  requires std::is_arithmetic_v<T>
T max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
  return a < b ? b : a;
}
