// The CPU kernel: depthwise_backward_cpu_body.h for every vector target.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "depthwise/depthwise_backward.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own _mm512_undefined_ps()
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only
#endif
#define SIGN_EXT_BODY "depthwise/depthwise_backward_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {

void depthwise_backward_cpu(const DepthwiseBackwardArgs& args, std::int64_t begin,
                            std::int64_t end) {
  SIGN_EXT_CALL_TARGET(depthwise_backward_rows(args, begin, end));
}

}  // namespace sign_ext
