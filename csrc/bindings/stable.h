// LibTorch's stable ABI, the only part of torch that registrations use: one build loads in the
// release named here and in all later ones. Registrations include this header and no other torch
// header, and no Python header, so the library does not depend on a Python version either.

#pragma once

#define TORCH_TARGET_VERSION 0x020b000000000000  // 2.11

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
