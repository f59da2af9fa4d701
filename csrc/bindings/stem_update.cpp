// Schema and registration of sign_ext::stem_update_ through LibTorch's stable ABI.

#include "stem_update/stem_update.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include "bindings/checks.h"
#include "bindings/dispatch.h"
#include "common/watch_cpu.h"

namespace sign_ext::bindings {
namespace {

constexpr char kOp[] = "stem_update_";

// Whether a convolution along this axis can have `out` outputs: one for every window that fits in
// the leading padding and the image, and none for a window that begins past the end of the image.
bool fits(std::int64_t out, std::int64_t size, std::int64_t kernel, std::int64_t stride,
          std::int64_t pad, std::int64_t dilation) {
  const std::int64_t room = size + pad - (kernel - 1) * dilation - 1;
  const std::int64_t least = room < 0 ? 0 : room / stride + 1;
  return out >= least && (out - 1) * stride - pad < size;
}

void check_updated(const char* name, const Tensor& tensor, const Tensor& p, const Tensor& g,
                   const Tensor& weight) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, kOp, ": ", name, " must be float32");
  check_companion(kOp, name, tensor, "p", p);
  check_apart(kOp, name, tensor, "g", g);
  check_apart(kOp, name, tensor, "weight", weight);
}

StemUpdateArgs checked_args(const Tensor& p, const Tensor& g, const Tensor& weight,
                            const OptionalTensor& velocity, const OptionalTensor& mask,
                            double slope, const OptionalTensor& watch, const OptionalTensor& counts,
                            std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_top,
                            std::int64_t pad_left, std::int64_t dilation_h, std::int64_t dilation_w,
                            double step_size, double momentum, std::optional<double> clamp_min,
                            std::optional<double> clamp_max) {
  STD_TORCH_CHECK(p.dim() == 4 && g.dim() == 4 && weight.dim() == 4, kOp,
                  ": p must be (N, C, H, W), g (N, O, OH, OW) and weight (KH, KW, C, O)");
  StemUpdateArgs args{};
  args.n = p.size(0);
  args.in_channels = p.size(1);
  args.height = p.size(2);
  args.width = p.size(3);
  args.channels = g.size(1);
  args.out_height = g.size(2);
  args.out_width = g.size(3);
  args.kernel_h = weight.size(0);
  args.kernel_w = weight.size(1);
  args.stride_h = stride_h;
  args.stride_w = stride_w;
  args.pad_top = pad_top;
  args.pad_left = pad_left;
  args.dilation_h = dilation_h;
  args.dilation_w = dilation_w;
  check_updated("p", p, p, g, weight);  // also checks that its channels are innermost
  const Rows g_rows = rows_of(kOp, "g", g);
  args.type = element_type_of(kOp, "g", g);
  STD_TORCH_CHECK(g.size(0) == args.n && same_device(g, p), kOp,
                  ": g must have p's batch size and be on p's device");
  STD_TORCH_CHECK(
      weight.scalar_type() == ScalarType::Float && weight.is_contiguous() && same_device(weight, p),
      kOp, ": weight must be contiguous float32 on p's device");
  STD_TORCH_CHECK(weight.size(2) == args.in_channels && weight.size(3) == args.channels, kOp,
                  ": weight must be (KH, KW, ", args.in_channels, ", ", args.channels,
                  "), where the last two sizes are the channels of p and of g");
  STD_TORCH_CHECK(stride_h > 0 && stride_w > 0 && dilation_h > 0 && dilation_w > 0 &&
                      args.kernel_h > 0 && args.kernel_w > 0,
                  kOp, ": stride, dilation and the kernel's size must be positive");
  STD_TORCH_CHECK(pad_top >= 0 && pad_left >= 0, kOp, ": padding must not be negative");
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 4;
  for (const std::int64_t size :
       {args.height, args.width, args.in_channels, args.out_height, args.out_width, args.channels,
        pad_top, pad_left, stride_h, stride_w, args.kernel_h * dilation_h,
        args.kernel_w * dilation_w, weight.numel()}) {
    STD_TORCH_CHECK(size < kMost, kOp, ": a size, or the number of weights, is not below ", kMost);
  }
  STD_TORCH_CHECK(
      fits(args.out_height, args.height, args.kernel_h, stride_h, pad_top, dilation_h) &&
          fits(args.out_width, args.width, args.kernel_w, stride_w, pad_left, dilation_w),
      kOp, ": g has height and width (", args.out_height, ", ", args.out_width,
      "), which no convolution of p with this kernel, stride, padding and dilation produces");

  args.g = g.const_data_ptr();
  args.mask = mask_of(kOp, "mask", mask, g_rows, g);
  args.slope = static_cast<float>(slope);
  args.weight = static_cast<const float*>(weight.const_data_ptr());
  args.p = static_cast<float*>(p.mutable_data_ptr());
  set_step(kOp, step_size, momentum, clamp_min, clamp_max, args);
  if (velocity.has_value()) {
    check_updated("velocity", *velocity, p, g, weight);
    check_apart(kOp, "velocity", *velocity, "p", p);
    args.velocity = static_cast<float*>(velocity->mutable_data_ptr());
  }
  set_watch(kOp, watch, counts, p, args);
  return args;
}

void run_on_cpu(const StemUpdateArgs& args) {
  if (args.n * args.height * args.width * args.in_channels == 0) return;
  // The cost of a row is that of reading g for it, once per row of taps. Without g, p still moves.
  const std::int64_t read = args.out_width * args.channels * args.kernel_h;
  for_rows<stem_update_cpu>(args, args.n * args.height, std::max<std::int64_t>(read, 1));
  if (args.counts != nullptr) count_step(args.watch, args.counts);
}

SIGN_EXT_SCHEMA(
    "stem_update_(Tensor(a!) p, Tensor g, Tensor weight, Tensor(b!)? velocity, Tensor? mask, "
    "float slope, Tensor(c!)? watch, Tensor(d!)? counts, int stride_h, int stride_w, int pad_top, "
    "int pad_left, int dilation_h, int dilation_w, float step_size, float momentum, "
    "float? clamp_min, float? clamp_max) -> ()")
SIGN_EXT_ON_CPU(kOp, checked_args, run_on_cpu)
SIGN_EXT_ON_CUDA(kOp, checked_args, stem_update_cuda)

}  // namespace
}  // namespace sign_ext::bindings
