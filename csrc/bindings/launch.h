// Runs an operator whose arguments have been checked: on torch's CPU threads, or on the current
// CUDA stream. Apart from checks.h, which only looks at tensors and never runs anything.

#pragma once

#include <cstdint>

#include "bindings/stable.h"

namespace sign_ext::bindings {

using torch::stable::Tensor;

// The least number of elements worth a thread: with fewer, waking it costs more than it saves.
constexpr std::int64_t kElementsPerThread = 16384;

// Splits `rows` of `per_row` elements each among torch's own threads.
template <typename Body>
void for_rows(std::int64_t rows, std::int64_t per_row, Body&& body) {
  const std::int64_t grain = kElementsPerThread / (per_row < 1 ? 1 : per_row) + 1;
  torch::stable::parallel_for(0, rows, grain, body);
}

#ifdef SIGN_EXT_WITH_CUDA
// Calls launch(stream) with the current stream of the tensor's device. `launch` returns null, or
// the CUDA error as text.
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
