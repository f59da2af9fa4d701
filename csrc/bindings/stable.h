// LibTorch's stable ABI: all that registrations use of torch. One build loads in the release named
// here and in all later ones. It is named here rather than for the whole extension because the
// pybind11 that comes with torch 2.11 refuses to see it; so registrations include this header and
// no torch header of their own.

#pragma once

#define TORCH_TARGET_VERSION 0x020b000000000000  // 2.11

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
