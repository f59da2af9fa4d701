// How threads divide rows of channels: a thread takes 8 adjacent channels of one row, so it owns
// one byte of the bit mask. Adjacent threads take adjacent groups, hence adjacent memory.
//
// A launch covers whole rows with fewer than 2^31 elements in all, so a thread finds its place in
// 32-bit arithmetic, without a division (common/divisor.cuh). Larger tensors take several launches,
// each with its own pointers.

#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/device.cuh"
#include "common/divisor.cuh"
#include "common/pack.cuh"
#include "common/storage.h"

namespace sign_ext {

constexpr int kGroupThreads = 256;
constexpr std::int64_t kMostLaunchElements = 0x7fffffff;

// Whether wide accesses into this array are aligned, so that load_8 and store_8 may be used.
inline bool on_16_bytes(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

// The groups that one launch covers.
struct GroupGrid {
  Divisor per_row;  // groups in a row
  std::uint32_t groups;
  std::uint32_t channels;
};

struct Group {
  std::uint32_t byte;  // the index of its byte in the bit mask
  std::uint32_t row;
  std::uint32_t channel;  // its first one
  std::uint32_t element;  // that channel's
  int count;              // how many of the 8 channels exist; 0: no work
};

// kWhole: channels are a multiple of 8.
template <bool kWhole>
__device__ __forceinline__ Group this_group(const GroupGrid& grid) {
  const std::uint32_t thread = blockIdx.x * kGroupThreads + threadIdx.x;
  Group group;
  group.byte = thread;
  group.row = divide(thread, grid.per_row);
  group.channel = rest(thread, group.row, grid.per_row) * 8;
  group.element = kWhole ? thread * 8 : group.row * grid.channels + group.channel;
  const std::uint32_t left = kWhole ? 8 : grid.channels - group.channel;
  group.count = thread >= grid.groups ? 0 : left < 8 ? static_cast<int>(left) : 8;
  return group;
}

// Calls launch(grid, blocks, first_row, rows) for each launch that these rows take: multiples of
// `together` rows, with at most `most` elements. Returns null, or why that is not possible.
template <typename Launch>
const char* for_each_group_launch(std::int64_t rows, std::int64_t channels, std::int64_t together,
                                  std::int64_t most, Launch&& launch) {
  if (rows == 0 || channels == 0) return nullptr;
  const std::int64_t per_launch = most / channels / together * together;
  if (per_launch == 0) {
    return "one row (or one image, where constants belong to an image) has 2^31 elements or more: "
           "split the tensor";
  }
  const std::int64_t per_row = mask_row_bytes(channels);
  for (std::int64_t first = 0; first < rows; first += per_launch) {
    const std::int64_t count = rows - first < per_launch ? rows - first : per_launch;
    GroupGrid grid{};
    grid.per_row = divisor_of(per_row);
    grid.groups = static_cast<std::uint32_t>(count * per_row);
    grid.channels = static_cast<std::uint32_t>(channels);
    launch(grid, (grid.groups + kGroupThreads - 1) / kGroupThreads, first);
  }
  return nullptr;
}

// A pointer to a later element of the same array; null stays null.
template <typename T>
T* advanced(T* pointer, std::int64_t elements) {
  return pointer == nullptr ? nullptr : pointer + elements;
}
inline const void* advanced(const void* pointer, ElementType type, std::int64_t elements) {
  const std::int64_t bytes = elements * (type == ElementType::kFloat32 ? 4 : 2);
  return advanced(static_cast<const unsigned char*>(pointer), bytes);
}
inline void* advanced(void* pointer, ElementType type, std::int64_t elements) {
  return const_cast<void*>(advanced(static_cast<const void*>(pointer), type, elements));
}

// A group's values: wide accesses if kWhole (8 channels, 16-byte aligned), else one access each.
template <bool kWhole, typename T>
__device__ __forceinline__ void load_group(const T* address, int count, float (&values)[8]) {
  if constexpr (kWhole) {
    load_8(address, values);
  } else {
    load_up_to_8(address, count, values);
  }
}

// Factors and addends that change no value, so that loops over channels need no branch where an
// array is missing: v * 1 + -0 is v, also where v is -0.
constexpr float kNoScale = 1.0f;
constexpr float kNoShift = -0.0f;

// A group's values, or `otherwise` where there is no array.
template <bool kWhole, typename T>
__device__ __forceinline__ void load_group_or(float otherwise, const T* array, std::uint32_t at,
                                              int count, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = otherwise;
  if (array != nullptr) load_group<kWhole>(array + at, count, values);
}

template <bool kWhole, typename T, typename Values>
__device__ __forceinline__ void store_group(T* address, int count, const Values& values) {
  if constexpr (kWhole) {
    store_8(address, values);
  } else {
    store_up_to_8(address, count, values);
  }
}

}  // namespace sign_ext
