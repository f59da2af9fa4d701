// How threads divide rows of channels: a thread takes 8 adjacent channels of one row at a time, so
// it owns one byte of the bit mask, and the grid strides over all such groups. Adjacent threads
// take adjacent groups, hence adjacent memory.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/device.cuh"
#include "common/pack.cuh"

namespace sign_ext {

constexpr int kGroupThreads = 256;
constexpr std::int64_t kMostGroupBlocks = 1 << 22;  // keeps thread numbers below 2^31

inline std::int64_t group_blocks(std::int64_t rows, std::int64_t channels) {
  const std::int64_t groups = rows * mask_row_bytes(channels);
  const std::int64_t blocks = (groups + kGroupThreads - 1) / kGroupThreads;
  return blocks < kMostGroupBlocks ? blocks : kMostGroupBlocks;
}

// Whether wide accesses into this array are aligned, so that load_8 and store_8 may be used.
inline bool on_16_bytes(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

// Iterates over the groups of one thread. The divisions are 32-bit and done once per thread.
class ChannelGroups {
 public:
  __device__ __forceinline__ ChannelGroups(std::int64_t rows, std::int64_t channels)
      : channels_(channels),
        per_row_(static_cast<unsigned int>(mask_row_bytes(channels))),
        groups_(rows * mask_row_bytes(channels)),
        stride_(gridDim.x * blockDim.x) {
    const unsigned int thread = blockIdx.x * blockDim.x + threadIdx.x;
    group_ = thread;
    row_ = thread / per_row_;
    in_row_ = thread % per_row_;
  }

  __device__ __forceinline__ bool has_one() const { return group_ < groups_; }
  __device__ __forceinline__ void next() {
    group_ += stride_;
    row_ += stride_ / per_row_;
    in_row_ += stride_ % per_row_;
    if (in_row_ < per_row_) return;
    in_row_ -= per_row_;
    ++row_;
  }

  // The index of the group's byte in the bit mask, its first channel, the index of that channel's
  // element, and how many of its 8 channels exist.
  __device__ __forceinline__ std::int64_t byte() const { return group_; }
  __device__ __forceinline__ std::int64_t channel() const { return std::int64_t{in_row_} * 8; }
  __device__ __forceinline__ std::int64_t element() const { return row_ * channels_ + channel(); }
  __device__ __forceinline__ int count() const {
    const std::int64_t left = channels_ - channel();
    return left < 8 ? static_cast<int>(left) : 8;
  }

 private:
  std::int64_t channels_;
  unsigned int per_row_;
  std::int64_t groups_;
  unsigned int stride_;
  std::int64_t group_;
  std::int64_t row_;
  unsigned int in_row_;
};

// A group's values: wide accesses if kWhole (8 channels, 16-byte aligned), else one access each.
template <bool kWhole, typename T>
__device__ __forceinline__ void load_group(const T* address, int count, float (&values)[8]) {
  if constexpr (kWhole) {
    load_8(address, values);
  } else {
    load_up_to_8(address, count, values);
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void store_group(T* address, int count, const float (&values)[8]) {
  if constexpr (kWhole) {
    store_8(address, values);
  } else {
    store_up_to_8(address, count, values);
  }
}

}  // namespace sign_ext
