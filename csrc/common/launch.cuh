// What the launchers of kernels on groups of 8 channels share. Only .cu files include this header.

#pragma once

#include "common/channel_groups.cuh"
#include "common/device.cuh"

namespace sign_ext {

// launch(blocks, kernel, arguments...) on a stream.
struct OnStream {
  void* stream;
  int threads = kGroupThreads;  // per block

  template <typename... Parameters, typename... Arguments>
  void operator()(unsigned int blocks, void (*kernel)(Parameters...),
                  Arguments... arguments) const {
    kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  }
};

// What a launcher returns: `refused`, or the error of the launches as text, or null.
inline const char* launched(const char* refused) {
  if (refused != nullptr) return refused;
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sign_ext
