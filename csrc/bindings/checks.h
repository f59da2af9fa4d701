// Checks that operator registrations share. The messages are read by users: they name the argument.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "bindings/stable.h"

namespace sign_ext::bindings {

using torch::stable::Tensor;

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (std::int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

// Whether the elements of two tensors of one shape lie in the same order. Strides of dimensions of
// size 1 mean nothing.
inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (std::int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// Whether the elements fill one stretch of memory, each place once: contiguous, channels_last, or
// any permutation of such.
inline bool dense_and_non_overlapping(const Tensor& tensor) {
  std::vector<std::pair<std::int64_t, std::int64_t>> dimensions;  // (stride, size)
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dimensions.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(dimensions.begin(), dimensions.end());
  std::int64_t expected = 1;
  for (const auto& [stride, size] : dimensions) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Whether two stretches of memory share a byte.
inline bool overlap(const void* a, std::int64_t a_bytes, const void* b, std::int64_t b_bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(a);
  const auto second = reinterpret_cast<std::uintptr_t>(b);
  return first < second + static_cast<std::uintptr_t>(b_bytes) &&
         second < first + static_cast<std::uintptr_t>(a_bytes);
}

}  // namespace sign_ext::bindings
