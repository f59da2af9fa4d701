// The CPU kernel (max_pool_backward_cpu_body.h) for every vector target.

#include <cstddef>
#include <cstdint>

#include "max_pool/max_pool_backward.h"

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own _mm512_undefined_ps()
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only
#define SIGN_EXT_BODY "max_pool/max_pool_backward_cpu_body.h"
#include "common/for_each_target.h"

namespace sign_ext {

void max_pool_backward_cpu(const MaxPoolBackwardArgs& args, std::int64_t begin, std::int64_t end) {
  SIGN_EXT_CALL_TARGET(max_pool_backward_rows(args, begin, end));
}

}  // namespace sign_ext
