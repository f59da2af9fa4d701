// Schema and registration of sign_ext::winograd through LibTorch's stable ABI. CPU only.

#include "winograd/winograd.h"

#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "winograd";

void check_image(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4 && tensor.scalar_type() == ScalarType::Float, kOp, ": ", name,
                  " must be float32 (N, C, H, W)");
  rows_of(kOp, name, tensor);
}

WinogradArgs checked_args(const Tensor& x, const Tensor& weight, const Tensor& out,
                          const OptionalTensor& bias, const OptionalTensor& residual, double low,
                          double high, double slope, std::int64_t pad_top, std::int64_t pad_left) {
  check_image("x", x);
  check_image("out", out);
  WinogradArgs args{};
  args.images = x.size(0);
  args.channels = x.size(1);
  args.height = x.size(2);
  args.width = x.size(3);
  args.out_channels = out.size(1);
  args.out_height = out.size(2);
  args.out_width = out.size(3);
  args.pad_top = pad_top;
  args.pad_left = pad_left;
  STD_TORCH_CHECK(out.size(0) == args.images, kOp, ": out must have x's ", args.images, " images");
  STD_TORCH_CHECK(
      args.channels >= kWinogradLeastChannels && args.out_channels >= kWinogradLeastChannels, kOp,
      ": x and out must have at least ", kWinogradLeastChannels, " channels");
  STD_TORCH_CHECK(pad_top >= 0 && pad_left >= 0, kOp, ": padding must not be negative");
  constant_of(kOp, "weight", weight, 16 * args.channels * args.out_channels, x);
  args.x = static_cast<const float*>(x.const_data_ptr());
  args.weight = static_cast<const float*>(weight.const_data_ptr());
  args.bias = constant_of(kOp, "bias", bias, args.out_channels, x);
  args.out = static_cast<float*>(out.mutable_data_ptr());
  args.activation = {static_cast<float>(low), static_cast<float>(high), static_cast<float>(slope)};
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

void run_on_cpu(const WinogradArgs& args) {
  torch::stable::parallel_for(0, args.chunks(), 1, [&args](std::int64_t begin, std::int64_t end) {
    winograd_cpu(args, begin, end);
  });
}

SIGN_EXT_SCHEMA(
    "winograd(Tensor x, Tensor weight, Tensor(a!) out, Tensor? bias, Tensor? residual, "
    "float low, float high, float slope, int pad_top, int pad_left) -> ()")
SIGN_EXT_ON_CPU(kOp, checked_args, run_on_cpu)

}  // namespace
}  // namespace sign_ext::bindings
