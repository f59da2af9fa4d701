// sign_ext._C, the only part that needs Python: its attributes say how the operators' library was
// compiled, for sign_ext.build_config(). pybind11 has no stable ABI, so a build of this module fits
// one Python only; where it does not fit, the record that the build writes says the same.

#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "How the native operators of sign_ext were compiled";
#ifdef SIGN_EXT_WITH_CUDA
  module.attr("cuda") = true;
  module.attr("arches") = SIGN_EXT_ARCHES;    // "9.0;12.0+PTX"
  module.attr("toolkit") = SIGN_EXT_TOOLKIT;  // nvcc's version, "13.0"
#else
  module.attr("cuda") = false;
  module.attr("arches") = "";
  module.attr("toolkit") = "";
#endif
  module.attr("compiler") = compiler();
  module.attr("torch_built_with") = TORCH_VERSION;
}
