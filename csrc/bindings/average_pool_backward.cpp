// Schema and registration of sign_ext::average_pool_backward.

#include "average_pool_backward/average_pool_backward.h"

#include <cstdint>
#include <optional>

#include "bindings/checks.h"
#include "bindings/launch.h"
#include "bindings/stable.h"

namespace sign_ext::bindings {
namespace {

constexpr const char* kOp = "average_pool_backward";

AveragePoolBackwardArgs checked_args(const Tensor& g, const Tensor& out,
                                     const std::optional<Tensor>& other,
                                     const std::optional<Tensor>& x_mask, double x_slope,
                                     bool count_include_pad, std::int64_t divisor,
                                     std::int64_t kernel_h, std::int64_t kernel_w,
                                     std::int64_t stride_h, std::int64_t stride_w,
                                     std::int64_t pad_h, std::int64_t pad_w) {
  check_windows_of(kOp, "out", out, "g", g);
  check_groups(kOp, "out", out);
  const EpilogueArgs epilogue = epilogue_of(kOp, other, x_mask, out);
  STD_TORCH_CHECK(divisor >= INT32_MIN && divisor <= INT32_MAX, kOp, ": divisor is too large");
  AveragePoolBackwardArgs args{};
  args.type = element_type_of(kOp, "g", g);
  args.g = g.const_data_ptr();
  args.out = out.mutable_data_ptr();
  args.other = epilogue.other;
  args.x_mask = epilogue.x_mask;
  args.x_slope = static_cast<float>(x_slope);
  args.count_include_pad = count_include_pad;
  args.divisor = static_cast<int>(divisor);
  args.n = g.size(0);
  args.channels = g.size(1);
  args.window = {pool_axis(kOp, out.size(2), g.size(2), kernel_h, stride_h, pad_h, 1),
                 pool_axis(kOp, out.size(3), g.size(3), kernel_w, stride_w, pad_w, 1)};
  return args;
}

void average_pool_backward_on_cpu(const Tensor& g, const Tensor& out,
                                  const std::optional<Tensor>& other,
                                  const std::optional<Tensor>& x_mask, double x_slope,
                                  bool count_include_pad, std::int64_t divisor,
                                  std::int64_t kernel_h, std::int64_t kernel_w,
                                  std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h,
                                  std::int64_t pad_w) {
  const AveragePoolBackwardArgs args =
      checked_args(g, out, other, x_mask, x_slope, count_include_pad, divisor, kernel_h, kernel_w,
                   stride_h, stride_w, pad_h, pad_w);
  if (out.numel() == 0) return;
  for_rows(args.n * args.window.h.size, std::int64_t{args.window.w.size} * args.channels,
           [&args](std::int64_t begin, std::int64_t end) {
             average_pool_backward_cpu(args, begin, end);
           });
}

#ifdef SIGN_EXT_WITH_CUDA
void average_pool_backward_on_cuda(const Tensor& g, const Tensor& out,
                                   const std::optional<Tensor>& other,
                                   const std::optional<Tensor>& x_mask, double x_slope,
                                   bool count_include_pad, std::int64_t divisor,
                                   std::int64_t kernel_h, std::int64_t kernel_w,
                                   std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h,
                                   std::int64_t pad_w) {
  const AveragePoolBackwardArgs args =
      checked_args(g, out, other, x_mask, x_slope, count_include_pad, divisor, kernel_h, kernel_w,
                   stride_h, stride_w, pad_h, pad_w);
  if (out.numel() == 0) return;
  on_current_stream(kOp, g,
                    [&args](void* stream) { return average_pool_backward_cuda(args, stream); });
}
#endif

}  // namespace
}  // namespace sign_ext::bindings

STABLE_TORCH_LIBRARY_FRAGMENT(sign_ext, library) {
  library.def(
      "average_pool_backward(Tensor g, Tensor(a!) out, Tensor? other, Tensor? x_mask, "
      "float x_slope, bool count_include_pad, int divisor, int kernel_h, int kernel_w, "
      "int stride_h, int stride_w, int pad_h, int pad_w) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(sign_ext, CPU, library) {
  library.impl("average_pool_backward",
               TORCH_BOX(&sign_ext::bindings::average_pool_backward_on_cpu));
}

#ifdef SIGN_EXT_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sign_ext, CUDA, library) {
  library.impl("average_pool_backward",
               TORCH_BOX(&sign_ext::bindings::average_pool_backward_on_cuda));
}
#endif
