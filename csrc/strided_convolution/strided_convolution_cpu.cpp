// The CPU kernel: compiled for each vector target, with each thread's scratch memory.

// GCC takes the undefined lanes of its own AVX-512 intrinsics for forgotten variables, and warns
// of the calling convention of functions that are always inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#include <cstddef>
#include <cstdint>
#include <vector>

#include "strided_convolution/strided_convolution.h"

#define SIGN_EXT_BODY "strided_convolution/strided_convolution_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {
namespace {

// Kept per thread: allocating it in every call would cost more than a small call itself.
char* scratch(std::size_t bytes) {
  thread_local std::vector<char> memory;
  if (memory.size() < bytes + 64) memory.resize(bytes + 64);
  const auto base = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + ((base + 63) / 64 * 64 - base);
}

void run(const StridedConvolutionArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(strided_rows(args, scratch, begin, end));
}

}  // namespace

void strided_convolution_cpu(const StridedConvolutionArgs& args, std::int64_t begin,
                             std::int64_t end) {
  if (begin < end) run(args, begin, end);
}

}  // namespace sign_ext
