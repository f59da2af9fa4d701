// Schema and registration of sign_ext::average_pool_backward.

#include "average_pool_backward/average_pool_backward.h"

#include <cstdint>
#include <optional>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "average_pool_backward";

AveragePoolBackwardArgs checked_args(const Tensor& g, const Tensor& out,
                                     const OptionalTensor& other, const OptionalTensor& x_mask,
                                     double x_slope, bool count_include_pad,
                                     std::optional<std::int64_t> divisor, std::int64_t kernel_h,
                                     std::int64_t kernel_w, std::int64_t stride_h,
                                     std::int64_t stride_w, std::int64_t pad_h,
                                     std::int64_t pad_w) {
  check_windows_of(kOp, "out", out, "g", g);
  check_groups(kOp, "out", out);
  STD_TORCH_CHECK(divisor != 0, kOp, ": divisor must not be 0; None takes the window's");
  STD_TORCH_CHECK(!divisor.has_value() || (*divisor >= INT32_MIN && *divisor <= INT32_MAX), kOp,
                  ": divisor is too large");
  AveragePoolBackwardArgs args{};
  args.type = element_type_of(kOp, "g", g);
  args.g = g.const_data_ptr();
  args.out = out.mutable_data_ptr();
  set_epilogue(kOp, other, x_mask, x_slope, out, args);
  args.count_include_pad = count_include_pad;
  args.divisor = static_cast<int>(divisor.value_or(0));
  args.n = g.size(0);
  args.channels = g.size(1);
  args.window = {pool_axis(kOp, out.size(2), g.size(2), kernel_h, stride_h, pad_h, 1),
                 pool_axis(kOp, out.size(3), g.size(3), kernel_w, stride_w, pad_w, 1)};
  return args;
}

void run_on_cpu(const AveragePoolBackwardArgs& args) {
  for_rows<average_pool_backward_cpu>(args, args.n * args.window.h.size,
                                      args.window.w.size * args.channels);
}

SIGN_EXT_SCHEMA(
    "average_pool_backward(Tensor g, Tensor(a!) out, Tensor? other, Tensor? x_mask, "
    "float x_slope, bool count_include_pad, int? divisor, int kernel_h, int kernel_w, "
    "int stride_h, int stride_w, int pad_h, int pad_w) -> ()")
SIGN_EXT_ON_CPU(kOp, checked_args, run_on_cpu)
SIGN_EXT_ON_CUDA(kOp, checked_args, average_pool_backward_cuda)

}  // namespace
}  // namespace sign_ext::bindings
