// Schemas and registrations of sign_ext::inverted_residual and inverted_residual_backward through
// LibTorch's stable ABI. CUDA only: on CPUs the blocks run one convolution at a time.

#include "inverted_residual/inverted_residual.h"

#include <cstdint>
#include <limits>

#include "bindings/checks.h"
#include "bindings/dispatch.h"

#ifdef SIGN_EXT_WITH_CUDA
namespace sign_ext::bindings {
namespace {

constexpr char kForward[] = "inverted_residual";
constexpr char kBackward[] = "inverted_residual_backward";

using block::kChunk;

std::int64_t up_to(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

const void* packed_of(const char* op, const char* name, const Tensor& tensor, ScalarType type,
                      std::int64_t elements, const Tensor& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.numel() == elements &&
                      tensor.is_contiguous() && same_device(tensor, like),
                  op, ": ", name, " must be ", elements,
                  " contiguous elements, as pack_block returns them, on the same device");
  check_alignment(op, name, tensor);
  return tensor.const_data_ptr();
}

int channels_of(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4 && tensor.size(1) > 0 && tensor.size(1) % 8 == 0 &&
                      tensor.size(1) <= std::numeric_limits<std::int16_t>::max(),
                  op, ": ", name, " must be (N, C, H, W) with a multiple of 8 channels");
  rows_of(op, name, tensor);
  check_alignment(op, name, tensor);
  return static_cast<int>(tensor.size(1));
}

int position(const char* op, const char* name, std::int64_t value, std::int64_t least) {
  STD_TORCH_CHECK(value >= least && value <= std::numeric_limits<std::int16_t>::max(), op, ": ",
                  name, " must be at least ", least, ", not ", value);
  return static_cast<int>(value);
}

block::Bounds bounds_of(const char* op, double low, double high, ElementType type) {
  const Activation activation = activation_of(op, low, high, 0.0, type);
  return {activation.low, activation.high};
}

struct Windows {
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
};

// What both directions share: `from` and `to` are the tensors that are read and written.
block::Args checked(const char* op, const Tensor& from, const char* from_name, const Tensor& to,
                    const Tensor& first, const Tensor& taps, const Tensor& second,
                    std::int64_t expanded, const Windows& w, bool tf32) {
  block::Args args{};
  block::Sizes& s = args.sizes;
  const ElementType type = element_type_of(op, from_name, from);
  STD_TORCH_CHECK(to.scalar_type() == from.scalar_type() && same_device(to, from) &&
                      to.dim() == 4 && from.dim() == 4 && to.size(0) == from.size(0),
                  op, ": out must have ", from_name, "'s batch size, dtype and device");
  s.images = from.size(0);
  s.from_c = channels_of(op, from_name, from);
  s.to_c = channels_of(op, "out", to);
  check_apart(op, from_name, from, "out", to);
  STD_TORCH_CHECK(expanded > 0 && expanded % 8 == 0, op,
                  ": the number of expanded channels must be a multiple of 8, not ", expanded);
  s.expanded = position(op, "expanded", expanded, 8);
  s.from_h = position(op, "height", from.size(2), 1);
  s.from_w = position(op, "width", from.size(3), 1);
  s.to_h = position(op, "height of out", to.size(2), 1);
  s.to_w = position(op, "width of out", to.size(3), 1);
  s.kernel_h = position(op, "kernel_h", w.kernel_h, 1);
  s.kernel_w = position(op, "kernel_w", w.kernel_w, 1);
  s.stride_h = position(op, "stride_h", w.stride_h, 1);
  s.stride_w = position(op, "stride_w", w.stride_w, 1);
  s.pad_top = position(op, "pad_top", w.pad_top, 0);
  s.pad_left = position(op, "pad_left", w.pad_left, 0);
  STD_TORCH_CHECK(s.kernel_h <= 256 && s.kernel_w <= 256, op,
                  ": a kernel may have at most 256x256 taps");
  STD_TORCH_CHECK(s.pad_top < s.kernel_h && s.pad_left < s.kernel_w, op,
                  ": padding must be smaller than the kernel");
  STD_TORCH_CHECK(!tf32 || type == ElementType::kFloat32, op, ": tf32 applies to float32 only");
  args.precision = type == ElementType::kBFloat16 ? block::Precision::kBFloat16
                   : tf32                         ? block::Precision::kTensorFloat32
                                                  : block::Precision::kFloat32;
  const ScalarType stored = from.scalar_type();
  const std::int64_t all = up_to(expanded, kChunk);
  args.first = packed_of(op, "first", first, stored, all * up_to(s.from_c, 16), from);
  args.second = packed_of(op, "second", second, stored, all * up_to(s.to_c, 16), from);
  args.taps = static_cast<const float*>(
      packed_of(op, "taps", taps, ScalarType::Float, all * s.kernel_h * s.kernel_w, from));
  args.from = from.const_data_ptr();
  args.to = to.mutable_data_ptr();
  return args;
}

// The bit mask of the expanded channels at a tensor's positions.
std::uint8_t* bits_of(const char* op, const char* name, const OptionalTensor& mask,
                      const Tensor& at, std::int64_t expanded) {
  const Rows rows{at.size(0) * at.size(2) * at.size(3), expanded};
  return mutable_mask_of(op, name, mask, rows, at);
}

const void* added_of(const char* op, const char* name, const OptionalTensor& added,
                     const Tensor& to) {
  if (!added.has_value()) return nullptr;
  STD_TORCH_CHECK(added->scalar_type() == to.scalar_type(), op, ": ", name,
                  " must have out's dtype");
  check_companion(op, name, *added, "out", to);
  check_apart(op, name, *added, "out", to);
  check_alignment(op, name, *added);
  return added->const_data_ptr();
}

block::Args checked_forward(const Tensor& x, const Tensor& first, const Tensor& taps,
                            const Tensor& second, const Tensor& bias, std::int64_t expanded,
                            double low_e, double high_e, double low_d, double high_d, double low,
                            double high, std::int64_t kernel_h, std::int64_t kernel_w,
                            std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_top,
                            std::int64_t pad_left, bool tf32, const Tensor& out,
                            const OptionalTensor& expand_mask, const OptionalTensor& depthwise_mask,
                            const OptionalTensor& residual, const OptionalTensor& mask) {
  constexpr const char* kOp = kForward;
  block::Args args = checked(kOp, x, "x", out, first, taps, second, expanded,
                             {kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left}, tf32);
  const ElementType type = element_type_of(kOp, "x", x);
  const std::int64_t biases = 2 * up_to(expanded, kChunk) + up_to(args.sizes.to_c, 16);
  args.bias = static_cast<const float*>(packed_of(kOp, "bias", bias, ScalarType::Float, biases, x));
  args.bits[0] = bits_of(kOp, "expand_mask", expand_mask, x, expanded);
  args.bits[1] = bits_of(kOp, "depthwise_mask", depthwise_mask, out, expanded);
  args.last_bits = bits_of(kOp, "mask", mask, out, args.sizes.to_c);
  args.added = added_of(kOp, "residual", residual, out);
  args.activation[0] = bounds_of(kOp, low_e, high_e, type);
  args.activation[1] = bounds_of(kOp, low_d, high_d, type);
  args.last = bounds_of(kOp, low, high, type);
  return args;
}

block::Args checked_backward(const Tensor& g, const Tensor& first, const Tensor& taps,
                             const Tensor& second, std::int64_t expanded, std::int64_t kernel_h,
                             std::int64_t kernel_w, std::int64_t stride_h, std::int64_t stride_w,
                             std::int64_t pad_top, std::int64_t pad_left, bool tf32,
                             const Tensor& out, const OptionalTensor& expand_mask,
                             const OptionalTensor& depthwise_mask, const OptionalTensor& other) {
  constexpr const char* kOp = kBackward;
  block::Args args = checked(kOp, g, "g", out, first, taps, second, expanded,
                             {kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left}, tf32);
  args.backward = true;
  args.bits[0] = bits_of(kOp, "depthwise_mask", depthwise_mask, g, expanded);
  args.bits[1] = bits_of(kOp, "expand_mask", expand_mask, out, expanded);
  args.added = added_of(kOp, "other", other, out);
  return args;
}

SIGN_EXT_ON_CUDA(kForward, checked_forward, block::run_cuda)
SIGN_EXT_ON_CUDA(kBackward, checked_backward, block::run_cuda)

}  // namespace
}  // namespace sign_ext::bindings
#endif

SIGN_EXT_SCHEMA(
    "inverted_residual(Tensor x, Tensor first, Tensor taps, Tensor second, Tensor bias, "
    "int expanded, float low_e, float high_e, float low_d, float high_d, float low, float high, "
    "int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left, bool tf32, "
    "Tensor(a!) out, Tensor(b!)? expand_mask, Tensor(c!)? depthwise_mask, Tensor? residual, "
    "Tensor(d!)? mask) -> ()")
SIGN_EXT_SCHEMA(
    "inverted_residual_backward(Tensor g, Tensor first, Tensor taps, Tensor second, int expanded, "
    "int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left, bool tf32, "
    "Tensor(a!) out, Tensor? expand_mask, Tensor? depthwise_mask, Tensor? other) -> ()")
