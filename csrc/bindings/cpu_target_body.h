// The name of one vector target, compiled for each; see common/for_each_target.h.

inline void name_target(const char*& name) {
  name = SIGN_EXT_VECTOR_BITS == 512 ? "avx512" : SIGN_EXT_VECTOR_BITS == 256 ? "avx2" : "baseline";
}
