// Schemas and registrations of sign_ext::depthwise and depthwise_backward through LibTorch's stable
// ABI.

#include "depthwise/depthwise.h"

#include <cmath>
#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"
#include "depthwise/depthwise_backward.h"

namespace sign_ext::bindings {
namespace {

constexpr char kForward[] = "depthwise";
constexpr char kBackward[] = "depthwise_backward";

// One axis. If the padding is smaller than a window's extent, every window must overlap the image.
// If it is larger, windows may begin past the image by at most the excess.
void check_axis(const char* op, const char* which, std::int64_t size, std::int64_t out,
                std::int64_t kernel, std::int64_t stride, std::int64_t pad, std::int64_t dilation) {
  STD_TORCH_CHECK(stride > 0 && dilation > 0 && pad >= 0, op,
                  ": stride and dilation must be positive, padding not negative");
  const std::int64_t more = pad - dilation * (kernel - 1);
  STD_TORCH_CHECK(out == 0 || (out - 1) * stride - pad < size + (more > 0 ? more : 0), op,
                  ": window ", out - 1, " of the ", which, " begins past the image of ", size,
                  " positions");
}

// y has one value per window of x.
DepthwiseSizes sizes_of(const char* op, const Tensor& x, const Tensor& y, const Tensor& weight,
                        std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_top,
                        std::int64_t pad_left, std::int64_t dilation_h, std::int64_t dilation_w) {
  STD_TORCH_CHECK(
      weight.dim() == 3 && weight.size(2) == x.size(1) && weight.size(0) > 0 && weight.size(1) > 0,
      op, ": weight must be (KH, KW, ", x.size(1), ")");
  constant_of(op, "weight", weight, weight.numel(), x);
  check_axis(op, "height", x.size(2), y.size(2), weight.size(0), stride_h, pad_top, dilation_h);
  check_axis(op, "width", x.size(3), y.size(3), weight.size(1), stride_w, pad_left, dilation_w);
  return {x.size(0),      x.size(2), x.size(3), x.size(1), y.size(2), y.size(3),  weight.size(0),
          weight.size(1), stride_h,  stride_w,  pad_top,   pad_left,  dilation_h, dilation_w};
}

DepthwiseArgs checked_forward(const Tensor& x, const Tensor& weight, const Tensor& out,
                              const OptionalTensor& bias, const OptionalTensor& mask, double low,
                              double high, double slope, std::int64_t stride_h,
                              std::int64_t stride_w, std::int64_t pad_top, std::int64_t pad_left,
                              std::int64_t dilation_h, std::int64_t dilation_w) {
  constexpr const char* kOp = kForward;
  check_windows_of(kOp, "x", x, "out", out);
  DepthwiseArgs args{};
  args.sizes =
      sizes_of(kOp, x, out, weight, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w);
  args.type = element_type_of(kOp, "x", x);
  args.x = x.const_data_ptr();
  args.weight = static_cast<const float*>(weight.const_data_ptr());
  args.bias = constant_of(kOp, "bias", bias, x.size(1), x);
  args.out = out.mutable_data_ptr();
  args.mask = mutable_mask_of(kOp, "mask", mask, rows_of(kOp, "out", out), x);
  if (mask.has_value()) check_apart(kOp, "mask", *mask, "out", out);
  args.activation = activation_of(kOp, low, high, slope, args.type);
  return args;
}

DepthwiseBackwardArgs checked_backward(const Tensor& g, const Tensor& weight, const Tensor& out,
                                       const OptionalTensor& mask, double slope,
                                       const OptionalTensor& other, const OptionalTensor& x_mask,
                                       double x_slope, std::int64_t stride_h, std::int64_t stride_w,
                                       std::int64_t pad_top, std::int64_t pad_left,
                                       std::int64_t dilation_h, std::int64_t dilation_w) {
  constexpr const char* kOp = kBackward;
  check_windows_of(kOp, "out", out, "g", g);
  STD_TORCH_CHECK(!std::isnan(slope) && !std::isnan(x_slope), kOp,
                  ": slope and x_slope must be numbers, not NaN");
  DepthwiseBackwardArgs args{};
  args.sizes =
      sizes_of(kOp, out, g, weight, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w);
  args.type = element_type_of(kOp, "g", g);
  args.g = g.const_data_ptr();
  args.weight = static_cast<const float*>(weight.const_data_ptr());
  args.out = out.mutable_data_ptr();
  args.mask = mask_of(kOp, "mask", mask, rows_of(kOp, "g", g), g);
  if (mask.has_value()) check_apart(kOp, "mask", *mask, "out", out);
  if (x_mask.has_value()) check_apart(kOp, "x_mask", *x_mask, "out", out);
  args.slope = static_cast<float>(slope);
  set_epilogue(kOp, other, x_mask, x_slope, out, args);
  return args;
}

void forward_on_cpu(const DepthwiseArgs& args) {
  const DepthwiseSizes& s = args.sizes;
  for_rows<depthwise_cpu>(args, s.n * s.out_height, s.out_width * s.channels * s.kernel_h);
}

void backward_on_cpu(const DepthwiseBackwardArgs& args) {
  const DepthwiseSizes& s = args.sizes;
  for_rows<depthwise_backward_cpu>(args, s.n * s.height, s.width * s.channels * s.kernel_h);
}

SIGN_EXT_SCHEMA(
    "depthwise(Tensor x, Tensor weight, Tensor(a!) out, Tensor? bias, Tensor(b!)? mask, "
    "float low, float high, float slope, int stride_h, int stride_w, int pad_top, int pad_left, "
    "int dilation_h, int dilation_w) -> ()")
SIGN_EXT_ON_CPU(kForward, checked_forward, forward_on_cpu)
SIGN_EXT_ON_CUDA(kForward, checked_forward, depthwise_cuda)

SIGN_EXT_SCHEMA(
    "depthwise_backward(Tensor g, Tensor weight, Tensor(a!) out, Tensor? mask, float slope, "
    "Tensor? other, Tensor? x_mask, float x_slope, int stride_h, int stride_w, int pad_top, "
    "int pad_left, int dilation_h, int dilation_w) -> ()")
SIGN_EXT_ON_CPU(kBackward, checked_backward, backward_on_cpu)
SIGN_EXT_ON_CUDA(kBackward, checked_backward, depthwise_backward_cuda)

}  // namespace
}  // namespace sign_ext::bindings
