// Argument checks that the operator registrations share. Users read the messages, so each names the
// operator and the argument.
//
// Functions named check_* only check. Functions named *_of check a tensor and return what the
// kernel needs of it: a pointer, a type or sizes.
//
// Activations are rows of channels: a tensor (N, C, H, W) in channels_last, or (N, C) contiguous,
// is rows of C adjacent values. Its bit mask is uint8 (rows, ceil(C / 8)), see common/activation.h.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/stable.h"
#include "common/activation.h"
#include "common/pool_window.h"
#include "common/storage.h"
#include "common/watch.h"

namespace sign_ext::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// ---- Shape, layout and device ----

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (std::int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

// Whether two tensors of the same shape store their elements in the same order. The stride of a
// dimension of size 1 is ignored.
inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (std::int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// Whether the elements fill one block of memory without gaps or overlaps: contiguous,
// channels_last, or any other permutation.
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

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.is_cpu() == b.is_cpu() &&
         a.get_device_index() == b.get_device_index();
}

struct Rows {
  std::int64_t rows;
  std::int64_t channels;
};

inline Rows rows_of(const char* op, const char* name, const Tensor& tensor) {
  const std::int64_t d = tensor.dim();
  STD_TORCH_CHECK(d == 2 || d == 4, op, ": ", name, " must be (N, C) or (N, C, H, W)");
  const std::int64_t channels = tensor.size(1);
  std::int64_t expected = 1;
  const auto next = [&](std::int64_t dimension) {
    STD_TORCH_CHECK(tensor.size(dimension) <= 1 || tensor.stride(dimension) == expected, op, ": ",
                    name, " must be dense with its channels innermost: pass it in channels_last");
    expected *= tensor.size(dimension);
  };
  next(1);
  if (d == 4) {
    next(3);
    next(2);
  }
  next(0);
  return {channels == 0 ? 0 : tensor.numel() / channels, channels};
}

// (N, C, H, W) in channels_last.
inline Rows image_of(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, op, ": ", name, " must be (N, C, H, W)");
  return rows_of(op, name, tensor);
}

inline ElementType element_type_of(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, op, ": ", name,
                  " must be float32 or bfloat16");
  return type == ScalarType::Float ? ElementType::kFloat32 : ElementType::kBFloat16;
}

// For tensors that a kernel reads 16 bytes at a time.
inline void check_alignment(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 16 == 0, op, ": ",
                  name, " must be 16-byte aligned: pass a tensor of its own, not a slice of one");
}

// A tensor of `like`'s shape, on its device, also in rows of channels.
inline void check_companion(const char* op, const char* name, const Tensor& tensor,
                            const char* like_name, const Tensor& like) {
  STD_TORCH_CHECK(same_shape(tensor, like), op, ": ", name, " must have ", like_name, "'s shape");
  STD_TORCH_CHECK(same_device(tensor, like), op, ": ", name, " must be on ", like_name,
                  "'s device");
  rows_of(op, name, tensor);
}

// ---- Memory that must not be shared ----

inline std::int64_t bytes_of(const Tensor& tensor) {
  return tensor.numel() * static_cast<std::int64_t>(tensor.element_size());
}

// Whether two ranges of memory share a byte.
inline bool overlap(const void* a, std::int64_t a_bytes, const void* b, std::int64_t b_bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(a);
  const auto second = reinterpret_cast<std::uintptr_t>(b);
  return first < second + static_cast<std::uintptr_t>(b_bytes) &&
         second < first + static_cast<std::uintptr_t>(a_bytes);
}

inline void check_apart(const char* op, const char* name, const Tensor& tensor,
                        const char* other_name, const Tensor& other) {
  STD_TORCH_CHECK(
      !overlap(tensor.const_data_ptr(), bytes_of(tensor), other.const_data_ptr(), bytes_of(other)),
      op, ": ", name, " shares memory with ", other_name);
}

// For elementwise kernels, which read element i before they write element i: the two may be the
// same tensor, but must not overlap in any other way.
inline void check_same_or_apart(const char* op, const char* name, const Tensor& tensor,
                                const char* out_name, const Tensor& out) {
  const void* const first = tensor.const_data_ptr();
  const void* const second = out.const_data_ptr();
  if (first == second && tensor.scalar_type() == out.scalar_type()) return;
  STD_TORCH_CHECK(!overlap(first, bytes_of(tensor), second, bytes_of(out)), op, ": ", out_name,
                  " shares memory with ", name, " without being the same tensor");
}

// ---- Constants, masks, activations and what an update reports ----

// A per-channel constant: n contiguous float32 values on `like`'s device. Null if not given.
inline const float* constant_of(const char* op, const char* name, const OptionalTensor& tensor,
                                std::int64_t n, const Tensor& like) {
  if (!tensor.has_value()) return nullptr;
  STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Float && tensor->numel() == n &&
                      tensor->is_contiguous() && same_device(*tensor, like),
                  op, ": ", name, " must be ", n, " contiguous float32 values on the same device");
  return static_cast<const float*>(tensor->const_data_ptr());
}

// The bit mask of the activations `of`.
inline void check_mask(const char* op, const char* name, const Tensor& mask, const Rows& of,
                       const Tensor& like) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Byte && mask.dim() == 2 &&
                      mask.size(0) == of.rows && mask.size(1) == mask_row_bytes(of.channels) &&
                      mask.is_contiguous() && same_device(mask, like),
                  op, ": ", name, " must be contiguous uint8 of shape (", of.rows, ", ",
                  mask_row_bytes(of.channels), ") on the same device");
}

inline const std::uint8_t* mask_of(const char* op, const char* name, const OptionalTensor& mask,
                                   const Rows& of, const Tensor& like) {
  if (!mask.has_value()) return nullptr;
  check_mask(op, name, *mask, of, like);
  return static_cast<const std::uint8_t*>(mask->const_data_ptr());
}

inline std::uint8_t* mutable_mask_of(const char* op, const char* name, const OptionalTensor& mask,
                                     const Rows& of, const Tensor& like) {
  if (!mask.has_value()) return nullptr;
  check_mask(op, name, *mask, of, like);
  return static_cast<std::uint8_t*>(mask->mutable_data_ptr());
}

// The activation, with its bounds rounded to the stored type so that mask bits and stored values
// agree. The mask is computed from the activation's value: a negative slope would flip the sign of
// that value (and change which value of a window is the largest).
inline Activation activation_of(const char* op, double low, double high, double slope,
                                ElementType stored) {
  STD_TORCH_CHECK(!std::isnan(low) && !std::isnan(high), op,
                  ": low and high must be numbers, not NaN");
  STD_TORCH_CHECK(slope >= 0, op, ": slope must not be negative");
  const auto bound = [stored](double value) {
    const auto single = static_cast<float>(value);
    return stored == ElementType::kFloat32 ? single
                                           : bfloat16_bits_to_float(float_to_bfloat16_bits(single));
  };
  return {bound(low), bound(high), static_cast<float>(slope)};
}

// What every input-backward operator adds to its result, and the mask that it then applies: sets
// args.other, args.x_mask and args.x_slope.
template <typename Args>
void set_epilogue(const char* op, const OptionalTensor& other, const OptionalTensor& x_mask,
                  double x_slope, const Tensor& out, Args& args) {
  if (other.has_value()) {
    check_companion(op, "other", *other, "out", out);
    STD_TORCH_CHECK(other->scalar_type() == out.scalar_type(), op, ": other must have out's dtype");
    check_same_or_apart(op, "other", *other, "out", out);
    args.other = other->const_data_ptr();
  }
  args.x_mask = mask_of(op, "x_mask", x_mask, rows_of(op, "out", out), out);
  args.x_slope = static_cast<float>(x_slope);
}

// What an update of p reports, if anything (common/watch.h): sets args.watch and args.counts.
template <typename Args>
void set_watch(const char* op, const OptionalTensor& watch, const OptionalTensor& counts,
               const Tensor& p, Args& args) {
  if (watch.has_value()) {
    constant_of(op, "watch", watch, 2, p);
    check_apart(op, "watch", *watch, "p", p);
    args.watch = static_cast<float*>(watch->mutable_data_ptr());
  }
  if (counts.has_value()) {
    STD_TORCH_CHECK(watch.has_value(), op, ": counts need a watch");
    STD_TORCH_CHECK(counts->scalar_type() == ScalarType::Int && counts->numel() == kCounts &&
                        counts->is_contiguous() && same_device(*counts, p),
                    op, ": counts must be ", kCounts,
                    " contiguous int32 values on the same device");
    check_apart(op, "counts", *counts, "p", p);
    check_apart(op, "counts", *counts, "watch", *watch);
    args.counts = static_cast<std::int32_t*>(counts->mutable_data_ptr());
  }
}

// Sets the factors and bounds of an update of p: a bound that is not given is infinite.
template <typename Args>
void set_step(const char* op, double step_size, double momentum, std::optional<double> clamp_min,
              std::optional<double> clamp_max, Args& args) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double low = clamp_min.value_or(-kInfinity);
  const double high = clamp_max.value_or(kInfinity);
  STD_TORCH_CHECK(!std::isnan(low) && !std::isnan(high), op,
                  ": clamp_min and clamp_max must be numbers, not NaN");
  args.step_size = static_cast<float>(step_size);
  args.momentum = static_cast<float>(momentum);
  args.clamp_min = static_cast<float>(low);
  args.clamp_max = static_cast<float>(high);
}

// ---- Windows over an image: pooling and depthwise convolution ----

// x and y, the tensor with one value per window of x: same batch size, channels, dtype and device.
inline void check_windows_of(const char* op, const char* x_name, const Tensor& x,
                             const char* y_name, const Tensor& y) {
  image_of(op, x_name, x);
  image_of(op, y_name, y);
  STD_TORCH_CHECK(x.size(0) == y.size(0) && x.size(1) == y.size(1) && same_device(x, y) &&
                      x.scalar_type() == y.scalar_type(),
                  op, ": ", y_name, " must have ", x_name,
                  "'s batch size, channels, dtype and device");
  check_apart(op, y_name, y, x_name, x);
}

// One axis. Every window begins before the end of the image, and padding is smaller than a window.
inline PoolAxis pool_axis(const char* op, std::int64_t size, std::int64_t out, std::int64_t kernel,
                          std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  STD_TORCH_CHECK(kernel > 0 && stride > 0 && dilation > 0 && padding >= 0, op,
                  ": kernel, stride and dilation must be positive, padding not negative");
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 4;
  STD_TORCH_CHECK(size < kMost && out < kMost && kernel * dilation < kMost && stride < kMost, op,
                  ": image, window or stride is too large");
  STD_TORCH_CHECK(padding < kernel * dilation, op, ": padding must be smaller than the window");
  STD_TORCH_CHECK(out == 0 || (out - 1) * stride - padding < size, op, ": window ", out - 1,
                  " begins past the image of ", size, " positions");
  return PoolAxis{static_cast<int>(size),   static_cast<int>(out),     static_cast<int>(kernel),
                  static_cast<int>(stride), static_cast<int>(padding), static_cast<int>(dilation)};
}

// The CUDA kernels number the groups of 8 channels within one image as int32.
inline void check_groups(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(mask_row_bytes(tensor.size(1)) * tensor.size(2) * tensor.size(3) <=
                      std::numeric_limits<std::int32_t>::max(),
                  op, ": one image of ", name, " is too large");
}

}  // namespace sign_ext::bindings
