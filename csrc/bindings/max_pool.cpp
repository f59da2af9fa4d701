// Schemas and registrations of sign_ext::max_pool and max_pool_backward.

#include "max_pool/max_pool.h"

#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"
#include "max_pool/max_pool_backward.h"

namespace sign_ext::bindings {
namespace {

constexpr char kForward[] = "max_pool";
constexpr char kBackward[] = "max_pool_backward";

// Checks that every window that begins in the padding covers a position of the image.
PoolAxis valid_axis(const char* op, const PoolAxis& axis) {
  for (int out = 0; out < axis.out && out * axis.stride < axis.padding; ++out) {
    const PoolSpan inside = pool_positions_inside(axis, out);
    STD_TORCH_CHECK(inside.first < inside.end, op, ": window ", out,
                    " has no position inside the image of ", axis.size, " positions");
  }
  return axis;
}

PoolWindow window_of(const char* op, const Tensor& x, const Tensor& y, std::int64_t kernel_h,
                     std::int64_t kernel_w, std::int64_t stride_h, std::int64_t stride_w,
                     std::int64_t pad_h, std::int64_t pad_w, std::int64_t dilation_h,
                     std::int64_t dilation_w) {
  return {
      valid_axis(op, pool_axis(op, x.size(2), y.size(2), kernel_h, stride_h, pad_h, dilation_h)),
      valid_axis(op, pool_axis(op, x.size(3), y.size(3), kernel_w, stride_w, pad_w, dilation_w))};
}

void check_index(const char* op, const Tensor& index, const Rows& of, const PoolWindow& window,
                 const Tensor& like) {
  const int bits = max_pool_index_bits(window);
  STD_TORCH_CHECK(bits != 0, op, ": a window must not have more than 256 positions");
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Byte && index.dim() == 3 &&
                      index.size(0) == of.rows && index.size(1) == mask_row_bytes(of.channels) &&
                      index.size(2) == bits && index.is_contiguous() && same_device(index, like),
                  op, ": index must be contiguous uint8 of shape (", of.rows, ", ",
                  mask_row_bytes(of.channels), ", ", bits, ") on the same device");
}

MaxPoolArgs checked_forward(const Tensor& x, const Tensor& out, const Tensor& index,
                            const OptionalTensor& bias, const OptionalTensor& mask, double low,
                            double high, double slope, std::int64_t kernel_h, std::int64_t kernel_w,
                            std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h,
                            std::int64_t pad_w, std::int64_t dilation_h, std::int64_t dilation_w) {
  constexpr const char* kOp = kForward;
  check_windows_of(kOp, "x", x, "out", out);
  check_groups(kOp, "out", out);
  MaxPoolArgs args{};
  args.type = element_type_of(kOp, "x", x);
  args.window = window_of(kOp, x, out, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
                          dilation_h, dilation_w);
  const Rows rows = rows_of(kOp, "out", out);
  check_index(kOp, index, rows, args.window, x);
  args.x = x.const_data_ptr();
  args.y = out.mutable_data_ptr();
  args.index = static_cast<std::uint8_t*>(index.mutable_data_ptr());
  args.mask = mutable_mask_of(kOp, "mask", mask, rows, x);
  args.bias = constant_of(kOp, "bias", bias, rows.channels, x);
  check_apart(kOp, "index", index, "out", out);
  if (mask.has_value()) check_apart(kOp, "mask", *mask, "out", out);
  if (mask.has_value()) check_apart(kOp, "mask", *mask, "index", index);
  args.activation = activation_of(kOp, low, high, slope, args.type);
  args.n = x.size(0);
  args.channels = rows.channels;
  return args;
}

MaxPoolBackwardArgs checked_backward(const Tensor& g, const Tensor& index, const Tensor& out,
                                     const OptionalTensor& mask, double slope,
                                     const OptionalTensor& other, const OptionalTensor& x_mask,
                                     double x_slope, std::int64_t kernel_h, std::int64_t kernel_w,
                                     std::int64_t stride_h, std::int64_t stride_w,
                                     std::int64_t pad_h, std::int64_t pad_w,
                                     std::int64_t dilation_h, std::int64_t dilation_w) {
  constexpr const char* kOp = kBackward;
  check_windows_of(kOp, "out", out, "g", g);
  check_groups(kOp, "out", out);
  MaxPoolBackwardArgs args{};
  args.type = element_type_of(kOp, "g", g);
  args.window = window_of(kOp, out, g, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
                          dilation_h, dilation_w);
  const Rows rows = rows_of(kOp, "g", g);
  check_index(kOp, index, rows, args.window, g);
  args.g = g.const_data_ptr();
  args.index = static_cast<const std::uint8_t*>(index.const_data_ptr());
  args.mask = mask_of(kOp, "mask", mask, rows, g);
  args.out = out.mutable_data_ptr();
  args.slope = static_cast<float>(slope);
  set_epilogue(kOp, other, x_mask, x_slope, out, args);
  args.n = g.size(0);
  args.channels = rows.channels;
  return args;
}

void forward_on_cpu(const MaxPoolArgs& args) {
  const auto& [h, w] = args.window;
  if (h.out == 0 || w.out == 0) return;
  // Rounded up: a row of the output is some work even where the image has fewer rows.
  const std::int64_t read = std::int64_t{h.size} * w.size * args.channels;
  for_rows<max_pool_cpu>(args, args.n * h.out, (read + h.out - 1) / h.out);
}

void backward_on_cpu(const MaxPoolBackwardArgs& args) {
  const auto& [h, w] = args.window;
  for_rows<max_pool_backward_cpu>(args, args.n * h.size, w.size * args.channels);
}

SIGN_EXT_SCHEMA(
    "max_pool(Tensor x, Tensor(a!) out, Tensor(b!) index, Tensor? bias, Tensor(c!)? mask, "
    "float low, float high, float slope, int kernel_h, int kernel_w, int stride_h, int stride_w, "
    "int pad_h, int pad_w, int dilation_h, int dilation_w) -> ()")
SIGN_EXT_ON_CPU(kForward, checked_forward, forward_on_cpu)
SIGN_EXT_ON_CUDA(kForward, checked_forward, max_pool_cuda)

SIGN_EXT_SCHEMA(
    "max_pool_backward(Tensor g, Tensor index, Tensor(a!) out, Tensor? mask, float slope, "
    "Tensor? other, Tensor? x_mask, float x_slope, int kernel_h, int kernel_w, int stride_h, "
    "int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) -> ()")
SIGN_EXT_ON_CPU(kBackward, checked_backward, backward_on_cpu)
SIGN_EXT_ON_CUDA(kBackward, checked_backward, max_pool_backward_cuda)

}  // namespace
}  // namespace sign_ext::bindings
