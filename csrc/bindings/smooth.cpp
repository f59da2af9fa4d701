// Schemas and registrations of sign_ext::smooth and sign_ext::smooth_backward through LibTorch's
// stable ABI.

#include "smooth/smooth.h"

#include <cstdint>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

namespace sign_ext::bindings {
namespace {

constexpr char kSmooth[] = "smooth";
constexpr char kSmoothBackward[] = "smooth_backward";

// Elementwise: any shape, all tensors with their elements in the same order.
void check_elementwise(const char* op, const char* name, const Tensor& tensor,
                       const char* like_name, const Tensor& like) {
  STD_TORCH_CHECK(same_shape(tensor, like) && same_strides(tensor, like), op, ": ", name,
                  " must have ", like_name, "'s shape and strides");
  STD_TORCH_CHECK(same_device(tensor, like), op, ": ", name, " must be on ", like_name,
                  "'s device");
}

void check_derivative(const char* op, const Tensor& derivative, const OptionalTensor& fraction,
                      const char* like_name, const Tensor& like, const Tensor& out) {
  STD_TORCH_CHECK(derivative.scalar_type() == ScalarType::Short, op, ": derivative must be int16");
  check_elementwise(op, "derivative", derivative, like_name, like);
  check_apart(op, "derivative", derivative, "out", out);
  if (!fraction.has_value()) return;
  STD_TORCH_CHECK(fraction->scalar_type() == ScalarType::Byte, op, ": fraction must be uint8");
  check_elementwise(op, "fraction", *fraction, like_name, like);
  check_apart(op, "fraction", *fraction, "out", out);
  check_apart(op, "fraction", *fraction, "derivative", derivative);
}

SmoothFunction function_of(const char* op, std::int64_t function) {
  STD_TORCH_CHECK(function >= 0 && function < kSmoothFunctions, op,
                  ": function must be a number from 0 to ", kSmoothFunctions - 1);
  return static_cast<SmoothFunction>(function);
}

SmoothArgs smooth_args(const Tensor& x, const Tensor& out, const OptionalTensor& derivative,
                       const OptionalTensor& fraction, std::int64_t function) {
  constexpr const char* kOp = kSmooth;
  STD_TORCH_CHECK(dense_and_non_overlapping(x), kOp, ": x must be dense");
  SmoothArgs args{};
  args.type = element_type_of(kOp, "x", x);
  args.function = function_of(kOp, function);
  STD_TORCH_CHECK(out.scalar_type() == x.scalar_type(), kOp, ": out must have x's dtype");
  check_elementwise(kOp, "out", out, "x", x);
  check_same_or_apart(kOp, "x", x, "out", out);
  STD_TORCH_CHECK(derivative.has_value() || !fraction.has_value(), kOp,
                  ": fraction needs a derivative");
  if (derivative.has_value()) {
    check_derivative(kOp, *derivative, fraction, "x", x, out);
    check_apart(kOp, "derivative", *derivative, "x", x);
    args.derivative = static_cast<std::int16_t*>(derivative->mutable_data_ptr());
  }
  if (fraction.has_value()) {
    check_apart(kOp, "fraction", *fraction, "x", x);
    args.fraction = static_cast<std::uint8_t*>(fraction->mutable_data_ptr());
  }
  args.count = x.numel();
  args.x = x.const_data_ptr();
  args.out = out.mutable_data_ptr();
  return args;
}

SmoothBackwardArgs smooth_backward_args(const Tensor& g, const Tensor& derivative,
                                        const Tensor& out, const OptionalTensor& fraction,
                                        const OptionalTensor& other, std::int64_t function) {
  constexpr const char* kOp = kSmoothBackward;
  STD_TORCH_CHECK(dense_and_non_overlapping(g), kOp, ": g must be dense");
  SmoothBackwardArgs args{};
  args.type = element_type_of(kOp, "g", g);
  args.function = function_of(kOp, function);
  STD_TORCH_CHECK(out.scalar_type() == g.scalar_type(), kOp, ": out must have g's dtype");
  check_elementwise(kOp, "out", out, "g", g);
  check_same_or_apart(kOp, "g", g, "out", out);
  check_derivative(kOp, derivative, fraction, "g", g, out);
  if (fraction.has_value()) {
    args.fraction = static_cast<const std::uint8_t*>(fraction->const_data_ptr());
  }
  if (other.has_value()) {
    STD_TORCH_CHECK(other->scalar_type() == g.scalar_type(), kOp, ": other must have g's dtype");
    check_elementwise(kOp, "other", *other, "g", g);
    check_same_or_apart(kOp, "other", *other, "out", out);
    args.other = other->const_data_ptr();
  }
  args.derivative = static_cast<const std::int16_t*>(derivative.const_data_ptr());
  args.count = g.numel();
  args.g = g.const_data_ptr();
  args.out = out.mutable_data_ptr();
  return args;
}

void smooth_on_cpu(const SmoothArgs& args) { for_rows<smooth_cpu>(args, args.count, 1); }

void smooth_backward_on_cpu(const SmoothBackwardArgs& args) {
  for_rows<smooth_backward_cpu>(args, args.count, 1);
}

SIGN_EXT_SCHEMA(
    "smooth(Tensor x, Tensor(a!) out, Tensor(b!)? derivative, Tensor(c!)? fraction, int function) "
    "-> ()")
SIGN_EXT_ON_CPU(kSmooth, smooth_args, smooth_on_cpu)
SIGN_EXT_ON_CUDA(kSmooth, smooth_args, smooth_cuda)

SIGN_EXT_SCHEMA(
    "smooth_backward(Tensor g, Tensor derivative, Tensor(a!) out, Tensor? fraction, Tensor? other, "
    "int function) -> ()")
SIGN_EXT_ON_CPU(kSmoothBackward, smooth_backward_args, smooth_backward_on_cpu)
SIGN_EXT_ON_CUDA(kSmoothBackward, smooth_backward_args, smooth_backward_cuda)

}  // namespace
}  // namespace sign_ext::bindings
