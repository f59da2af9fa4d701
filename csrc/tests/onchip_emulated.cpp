// onchip's kernel on the emulated device, as a function for the Python tests, which have their own
// plans, weights and networks: python_tests/emulated_onchip.py compiles and loads this file.

#include <cstdint>
#include <cstring>

#include "onchip/onchip_kernel.cuh"

using sign_ext::onchip::Args;
using sign_ext::onchip::Plan;

extern "C" {

int onchip_words() { return sizeof(Plan) / 4; }

int onchip_shift_for(int channels, int apart) {
  return sign_ext::onchip::shift_for(channels, apart);
}

// Tensor-core products in all launches so far, and the bytes that warps loaded for them.
std::uint64_t onchip_products() { return host_cuda::matrix_counts().products; }
std::uint64_t onchip_loaded() { return host_cuda::matrix_counts().loaded; }

// Sets whether products are summed as on the device from now on.
void onchip_truncates(int truncates) { host_cuda::tensor_cores_truncate() = truncates != 0; }

// Pointers are as in Args, null if absent.
void onchip_emulate(const std::int32_t* plan, float* p, float* velocity,
                    const std::uint16_t* weights, const float* constants, std::uint16_t* features,
                    std::uint8_t* residues, const std::uint16_t* cotangent, float* watch,
                    std::int32_t* counts, std::int64_t images, std::int64_t steps, float step_size,
                    float momentum, float clamp_min, float clamp_max, std::uint64_t seed) {
  Args args{};
  std::memcpy(&args.plan, plan, sizeof(args.plan));
  args.images = static_cast<unsigned int>(images);
  args.steps = static_cast<int>(steps);
  args.p = p;
  args.velocity = velocity;
  args.weights = weights;
  args.constants = constants;
  args.features = features;
  args.residues = residues;
  args.cotangent = cotangent;
  args.watch = reinterpret_cast<unsigned int*>(watch);
  args.counts = counts;
  args.step_size = step_size;
  args.momentum = momentum;
  args.clamp_min = clamp_min;
  args.clamp_max = clamp_max;
  host_cuda::Options options;
  options.seed = seed;
  options.dynamic_shared_bytes = static_cast<std::size_t>(args.plan.shared_bytes);
  const auto blocks = static_cast<unsigned int>((images + 1) / 2);  // so that a block processes two
  host_cuda::launch_with(options, &sign_ext::onchip::onchip_kernel, blocks,
                         static_cast<unsigned int>(args.plan.threads), args);
}

}  // extern "C"
