// smooth_typed and smooth_backward_typed are in vectors where the target has them.

namespace {

#if SIGN_EXT_VECTOR_BITS == 0
#include "smooth/smooth_plain_body.h"
#else
#include "smooth/smooth_lanes_body.h"
#endif

}  // namespace

inline void smooth_elements(const SmoothArgs& args, std::int64_t begin, std::int64_t end) {
  with_smooth_function(args.function, [&](auto function) {
    if (args.type == ElementType::kBFloat16) {
      smooth_typed<decltype(function)::value, std::uint16_t>(args, begin, end);
    } else {
      smooth_typed<decltype(function)::value, float>(args, begin, end);
    }
  });
}

inline void smooth_backward_elements(const SmoothBackwardArgs& args, std::int64_t begin,
                                     std::int64_t end) {
  with_smooth_function(args.function, [&](auto function) {
    if (args.type == ElementType::kBFloat16) {
      smooth_backward_typed<decltype(function)::value, std::uint16_t>(args, begin, end);
    } else {
      smooth_backward_typed<decltype(function)::value, float>(args, begin, end);
    }
  });
}
