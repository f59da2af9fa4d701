// Two C functions for sign_ext.build_config(), which calls them through ctypes: the vector targets
// that the CPU kernels are compiled for, and the one that runs on this processor.

#define SIGN_EXT_BODY "bindings/cpu_target_body.h"
#include "common/for_each_target.h"

#if defined(_WIN32)
#define SIGN_EXT_EXPORT extern "C" __declspec(dllexport)
#else
#define SIGN_EXT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

// Dispatched as the kernels are.
void name_target_in_use(const char*& name) { SIGN_EXT_CALL_TARGET(name_target(name)); }

}  // namespace

// Names separated by spaces, the plainest first.
SIGN_EXT_EXPORT const char* sign_ext_cpu_targets() {
#if defined(SIGN_EXT_X86_TARGETS)
  return "baseline avx2 avx512";
#else
  return "baseline";
#endif
}

SIGN_EXT_EXPORT const char* sign_ext_cpu_target() {
  const char* name = "";
  name_target_in_use(name);
  return name;
}
