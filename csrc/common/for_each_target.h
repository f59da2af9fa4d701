// Compiles one file several times, once per vector instruction set, and runs the best version that
// the processor supports. Define SIGN_EXT_BODY as the file's path before including this file:
//
//   #include <cmath>                                 // first, the headers that the body needs
//   #define SIGN_EXT_BODY "activate/activate_cpu_body.h"
//   #include "common/for_each_target.h"
//
//   void activate_cpu(const ActivateArgs& args, std::int64_t begin, std::int64_t end) {
//     SIGN_EXT_CALL_TARGET(activate_rows(args, begin, end));
//   }
//
// The body is included inside an unnamed namespace of sign_ext::target_NAME, so helpers of the same
// name in two operators do not clash. The body includes nothing but other bodies. It is plain C++
// loops for the compiler to vectorise, or uses GCC vector types and <immintrin.h> where
// SIGN_EXT_VECTOR_BITS allows it: 512, 256, or 0 (nothing known). (__AVX512F__ and the like are not
// defined there, because g++ preprocesses the whole file before it applies the pragmas.) If the
// compiler is not GCC or the processor is not x86-64, there is a single target, with 0.

#if !defined(SIGN_EXT_BODY)
#error "define SIGN_EXT_BODY before including common/for_each_target.h"
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define SIGN_EXT_X86_TARGETS 1
#endif

#define SIGN_EXT_VECTOR_BITS 0
namespace sign_ext::target_baseline {
namespace {
#include SIGN_EXT_BODY
}
}  // namespace sign_ext::target_baseline
#undef SIGN_EXT_VECTOR_BITS

#if defined(SIGN_EXT_X86_TARGETS)

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define SIGN_EXT_VECTOR_BITS 256
namespace sign_ext::target_avx2 {
namespace {
#include SIGN_EXT_BODY
}
}  // namespace sign_ext::target_avx2
#undef SIGN_EXT_VECTOR_BITS
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define SIGN_EXT_VECTOR_BITS 512
namespace sign_ext::target_avx512 {
namespace {
#include SIGN_EXT_BODY
}
}  // namespace sign_ext::target_avx512
#undef SIGN_EXT_VECTOR_BITS
#pragma GCC pop_options

#endif

#if !defined(SIGN_EXT_CALL_TARGET)
#include "common/cpu_target.h"
#if defined(SIGN_EXT_X86_TARGETS)
#define SIGN_EXT_CALL_TARGET(call)              \
  switch (::sign_ext::cpu_target()) {           \
    case ::sign_ext::CpuTarget::kAvx512:        \
      return ::sign_ext::target_avx512::call;   \
    case ::sign_ext::CpuTarget::kAvx2:          \
      return ::sign_ext::target_avx2::call;     \
    case ::sign_ext::CpuTarget::kBaseline:      \
      return ::sign_ext::target_baseline::call; \
  }
#else
#define SIGN_EXT_CALL_TARGET(call) return ::sign_ext::target_baseline::call
#endif
#endif

#undef SIGN_EXT_BODY
