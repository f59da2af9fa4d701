// Schema and registration of sign_ext::strided_convolution through LibTorch's stable ABI. CPU only.

#include "strided_convolution/strided_convolution.h"

#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "strided_convolution";

void check_image(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4 && tensor.scalar_type() == ScalarType::Float, kOp, ": ", name,
                  " must be float32 (N, C, H, W)");
  rows_of(kOp, name, tensor);
}

StridedConvolutionArgs checked_args(const Tensor& x, const Tensor& weight, const Tensor& out,
                                    const OptionalTensor& bias, const OptionalTensor& residual,
                                    double low, double high, double slope, bool transposed,
                                    std::int64_t stride_h, std::int64_t stride_w,
                                    std::int64_t pad_top, std::int64_t pad_left) {
  check_image("x", x);
  check_image("out", out);
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0, kOp,
                  ": weight must be (KH, KW, C_in, C_out)");
  StridedConvolutionArgs args{};
  args.images = x.size(0);
  args.channels = x.size(1);
  args.height = x.size(2);
  args.width = x.size(3);
  args.out_channels = out.size(1);
  args.out_height = out.size(2);
  args.out_width = out.size(3);
  args.kernel_h = weight.size(0);
  args.kernel_w = weight.size(1);
  args.stride_h = stride_h;
  args.stride_w = stride_w;
  args.pad_top = pad_top;
  args.pad_left = pad_left;
  args.transposed = transposed;
  STD_TORCH_CHECK(out.size(0) == args.images, kOp, ": out must have x's ", args.images, " images");
  STD_TORCH_CHECK(weight.size(2) == args.channels && weight.size(3) == args.out_channels, kOp,
                  ": weight must be (KH, KW, C_in, C_out) with x's ", args.channels, " and out's ",
                  args.out_channels, " channels");
  STD_TORCH_CHECK(pad_top >= 0 && pad_left >= 0, kOp, ": padding must not be negative");
  STD_TORCH_CHECK(stride_h > 0 && stride_w > 0, kOp, ": strides must be positive");
  args.x = static_cast<const float*>(x.const_data_ptr());
  args.weight = constant_of(kOp, "weight", weight, weight.numel(), x);
  args.bias = constant_of(kOp, "bias", bias, args.out_channels, x);
  args.out = static_cast<float*>(out.mutable_data_ptr());
  args.activation = activation_of(kOp, low, high, slope, ElementType::kFloat32);
  const std::int64_t out_bytes = bytes_of(out);
  STD_TORCH_CHECK(!overlap(args.out, out_bytes, args.x, bytes_of(x)), kOp,
                  ": out shares memory with x");
  if (residual.has_value()) {
    check_image("residual", *residual);
    STD_TORCH_CHECK(same_shape(*residual, out), kOp, ": residual must have out's shape");
    args.residual = static_cast<const float*>(residual->const_data_ptr());
    STD_TORCH_CHECK(!overlap(args.out, out_bytes, args.residual, out_bytes), kOp,
                    ": out shares memory with residual");
  }
  return args;
}

void run_on_cpu(const StridedConvolutionArgs& args) {
  if (args.out_height == 0 || args.out_width == 0) return;
  torch::stable::parallel_for(0, args.rows(), 4, [&args](std::int64_t begin, std::int64_t end) {
    strided_convolution_cpu(args, begin, end);
  });
}

SIGN_EXT_SCHEMA(
    "strided_convolution(Tensor x, Tensor weight, Tensor(a!) out, Tensor? bias, Tensor? residual, "
    "float low, float high, float slope, bool transposed, int stride_h, int stride_w, "
    "int pad_top, int pad_left) -> ()")
SIGN_EXT_ON_CPU(kOp, checked_args, run_on_cpu)

}  // namespace
}  // namespace sign_ext::bindings
