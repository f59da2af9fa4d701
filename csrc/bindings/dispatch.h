// From an operator's checks and kernels to its functions in torch's dispatcher.
//
// An operator writes its parameters once in C++, in the function that checks them and returns the
// kernel's arguments. The function of each device is derived from it:
//
//   TwiceArgs twice_args(const Tensor& x, const Tensor& out, double slope) { ... }
//   void twice_on_cpu(const TwiceArgs& args) { for_rows<twice_cpu>(args, args.rows, 1); }
//
//   SIGN_EXT_SCHEMA("twice(Tensor x, Tensor(a!) out, float slope) -> ()")
//   SIGN_EXT_ON_CPU(kTwice, twice_args, twice_on_cpu)
//   SIGN_EXT_ON_CUDA(kTwice, twice_args, twice_cuda)

#pragma once

#include <cstdint>

#include "bindings/stable.h"

namespace sign_ext::bindings {

using torch::stable::Tensor;

// The least number of elements worth a thread: with fewer, waking it costs more than it saves.
constexpr std::int64_t kElementsPerThread = 16384;

// Runs kKernel(args, begin, end) on torch's own threads, among which `rows` of `per_row` elements
// each are divided: torch.set_num_threads applies, and no second pool competes with it.
template <auto kKernel, typename Args>
void for_rows(const Args& args, std::int64_t rows, std::int64_t per_row) {
  if (rows == 0 || per_row == 0) return;
  const auto body = [&args](std::int64_t begin, std::int64_t end) { kKernel(args, begin, end); };
  torch::stable::parallel_for(0, rows, kElementsPerThread / per_row + 1, body);
}

// The dispatcher's function for CPU tensors: run(checked(parameters...)).
template <auto kChecked, auto kRun>
struct OnCpu;

template <typename Args, typename... Parameters, Args (*kChecked)(Parameters...), auto kRun>
struct OnCpu<kChecked, kRun> {
  static void call(Parameters... parameters) { kRun(kChecked(parameters...)); }
};

#ifdef SIGN_EXT_WITH_CUDA
// The dispatcher's function for CUDA tensors: launch(checked(parameters...), stream), with the
// current stream of the first tensor's device. `launch` returns null, or the CUDA error as text,
// and launches nothing where there is nothing to do.
template <const char* kOp, auto kChecked, auto kLaunch>
struct OnCuda;

template <const char* kOp, typename Args, typename... Parameters,
          Args (*kChecked)(const Tensor&, Parameters...), auto kLaunch>
struct OnCuda<kOp, kChecked, kLaunch> {
  static void call(const Tensor& first, Parameters... parameters) {
    const Args args = kChecked(first, parameters...);
    const auto device = first.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS, kOp,
                    ": no current CUDA stream on device ", device);
    const char* error = kLaunch(args, stream);
    STD_TORCH_CHECK(error == nullptr, kOp, ": CUDA launch failed: ", error);
  }
};
#endif

}  // namespace sign_ext::bindings

#define SIGN_EXT_SCHEMA(schema) \
  STABLE_TORCH_LIBRARY_FRAGMENT(sign_ext, library) { library.def(schema); }

// `op` is a constexpr char array with the schema's name, `checked` the function that checks.
#define SIGN_EXT_ON_CPU(op, checked, run)                                          \
  STABLE_TORCH_LIBRARY_IMPL(sign_ext, CPU, library) {                              \
    library.impl(op, TORCH_BOX((&sign_ext::bindings::OnCpu<checked, run>::call))); \
  }

#ifdef SIGN_EXT_WITH_CUDA
#define SIGN_EXT_ON_CUDA(op, checked, launch)                                              \
  STABLE_TORCH_LIBRARY_IMPL(sign_ext, CUDA, library) {                                     \
    library.impl(op, TORCH_BOX((&sign_ext::bindings::OnCuda<op, checked, launch>::call))); \
  }
#else
#define SIGN_EXT_ON_CUDA(op, checked, launch)  // built without CUDA
#endif
