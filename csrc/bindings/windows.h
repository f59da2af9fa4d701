// Checks that pooling and depthwise registrations share: windows over an image.

#pragma once

#include <cstdint>
#include <limits>

#include "bindings/companions.h"
#include "bindings/rows.h"
#include "common/pool_window.h"

namespace sign_ext::bindings {

// (N, C, H, W) in channels_last.
inline Rows image_of(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, op, ": ", name, " must be (N, C, H, W)");
  return rows_of(op, name, tensor);
}

// x and the tensor of its windows: same batch, channels, type and device.
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

// One axis: every window has a position in the image, and none is left out in front.
inline PoolAxis pool_axis(const char* op, std::int64_t size, std::int64_t out, std::int64_t kernel,
                          std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  STD_TORCH_CHECK(kernel > 0 && stride > 0 && dilation > 0 && padding >= 0, op,
                  ": kernel, stride and dilation must be positive, padding not negative");
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 4;
  STD_TORCH_CHECK(size < kMost && out < kMost && kernel * dilation < kMost && stride < kMost &&
                      padding < kernel * dilation,
                  op, ": a size is too large, or the padding as large as the window");
  STD_TORCH_CHECK(out == 0 || (out - 1) * stride - padding < size, op, ": window ", out - 1,
                  " begins behind the image of ", size, " positions");
  return PoolAxis{static_cast<int>(size),   static_cast<int>(out),     static_cast<int>(kernel),
                  static_cast<int>(stride), static_cast<int>(padding), static_cast<int>(dilation)};
}

// The CUDA kernels number the groups of 8 channels of one image in 31 bits.
inline void check_groups(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(mask_row_bytes(tensor.size(1)) * tensor.size(2) * tensor.size(3) <=
                      std::numeric_limits<std::int32_t>::max(),
                  op, ": one image of ", name, " is too large");
}

struct EpilogueArgs {
  const void* other;
  const std::uint8_t* x_mask;
};

// What every input-backward adds and applies to its result.
inline EpilogueArgs epilogue_of(const char* op, const std::optional<Tensor>& other,
                                const std::optional<Tensor>& x_mask, const Tensor& out) {
  EpilogueArgs args{};
  if (other.has_value()) {
    check_companion(op, "other", *other, "out", out);
    STD_TORCH_CHECK(other->scalar_type() == out.scalar_type(), op, ": other must have out's dtype");
    check_same_or_apart(op, "other", *other, "out", out);
    args.other = other->const_data_ptr();
  }
  args.x_mask = mask_of(op, "x_mask", x_mask, rows_of(op, "out", out), out);
  return args;
}

}  // namespace sign_ext::bindings
