// The CPU kernels, compiled once per vector target.

#include <cstdint>
#include <cstring>

#include "common/half_bits.h"
#include "common/storage.h"
#include "smooth/smooth.h"

#define SIGN_EXT_BODY "smooth/smooth_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {

void smooth_cpu(const SmoothArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(smooth_elements(args, begin, end));
}

void smooth_backward_cpu(const SmoothBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(smooth_backward_elements(args, begin, end));
}

}  // namespace sign_ext
