// What the registrations of the network operators share: activations are rows of channels.
//
// A tensor (N, C, H, W) in channels_last, or (N, C) contiguous, is rows of C neighbouring values; a
// bit mask of it is uint8 (rows, ceil(C / 8)), see common/activation.h.

#pragma once

#include <cstdint>
#include <optional>

#include "bindings/checks.h"
#include "bindings/stable.h"
#include "common/activation.h"
#include "common/storage.h"

namespace sign_ext::bindings {

// Elements a thread should have at least; below it, waking one costs more than it saves.
constexpr std::int64_t kElementsPerThread = 16384;

struct Rows {
  std::int64_t rows;
  std::int64_t channels;
};

inline std::int64_t bytes_of(const Tensor& tensor) {
  return tensor.numel() * static_cast<std::int64_t>(tensor.element_size());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.is_cpu() == b.is_cpu() &&
         a.get_device_index() == b.get_device_index();
}

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

inline ElementType element_type_of(const char* op, const char* name, const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, op, ": ", name,
                  " must be float32 or bfloat16");
  return type == ScalarType::Float ? ElementType::kFloat32 : ElementType::kBFloat16;
}

// A per-channel constant: float32, n contiguous values on `like`'s device; null where there is
// none.
inline const float* constant_of(const char* op, const char* name,
                                const std::optional<Tensor>& tensor, std::int64_t n,
                                const Tensor& like) {
  if (!tensor.has_value()) return nullptr;
  STD_TORCH_CHECK(tensor->scalar_type() == torch::headeronly::ScalarType::Float &&
                      tensor->numel() == n && tensor->is_contiguous() && same_device(*tensor, like),
                  op, ": ", name, " must be ", n, " contiguous float32 values on the same device");
  return static_cast<const float*>(tensor->const_data_ptr());
}

// A bit mask of rows of channels.
inline void check_mask(const char* op, const char* name, const Tensor& mask, const Rows& of,
                       const Tensor& like) {
  STD_TORCH_CHECK(mask.scalar_type() == torch::headeronly::ScalarType::Byte && mask.dim() == 2 &&
                      mask.size(0) == of.rows && mask.size(1) == mask_row_bytes(of.channels) &&
                      mask.is_contiguous() && same_device(mask, like),
                  op, ": ", name, " must be contiguous uint8 of shape (", of.rows, ", ",
                  mask_row_bytes(of.channels), ") on the same device");
}

inline const std::uint8_t* mask_of(const char* op, const char* name,
                                   const std::optional<Tensor>& mask, const Rows& of,
                                   const Tensor& like) {
  if (!mask.has_value()) return nullptr;
  check_mask(op, name, *mask, of, like);
  return static_cast<const std::uint8_t*>(mask->const_data_ptr());
}

inline std::uint8_t* mutable_mask_of(const char* op, const char* name,
                                     const std::optional<Tensor>& mask, const Rows& of,
                                     const Tensor& like) {
  if (!mask.has_value()) return nullptr;
  check_mask(op, name, *mask, of, like);
  return static_cast<std::uint8_t*>(mask->mutable_data_ptr());
}

// Splits `rows` of `per_row` elements among torch's own threads.
template <typename Body>
void for_rows(std::int64_t rows, std::int64_t per_row, Body&& body) {
  const std::int64_t grain = kElementsPerThread / (per_row < 1 ? 1 : per_row) + 1;
  torch::stable::parallel_for(0, rows, grain, body);
}

#ifdef SIGN_EXT_WITH_CUDA
// Calls launch(stream) on the current stream of the tensor's device; it returns null or an error.
template <typename Launch>
void on_current_stream(const char* op, const Tensor& tensor, Launch&& launch) {
  const auto device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS, op,
                  ": no current CUDA stream on device ", device);
  const char* error = launch(stream);
  STD_TORCH_CHECK(error == nullptr, op, ": CUDA launch failed: ", error);
}
#endif

}  // namespace sign_ext::bindings
