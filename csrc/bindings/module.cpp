// sign_ext._C. Importing it registers the operators, each in its own file in this folder. Its
// attributes say how it was built, for sign_ext.build_config().

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
  module.doc() = "Native operators of sign_ext; importing registers torch.ops.sign_ext.*";
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
