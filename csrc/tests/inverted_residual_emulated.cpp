// inverted_residual's kernel on the emulated device, as a function for the Python tests, which have
// their own blocks, arrays and networks: python_tests/emulated_blocks.py compiles and loads this
// file.

#include <cstdint>

#include "inverted_residual/inverted_residual_kernel.cuh"

using namespace sign_ext::block;

extern "C" {

// Pointers are as in Args, null if absent. `sizes` holds the fields of Sizes after `images`, in
// order; `activations` holds three (low, high). Returns the number of images per tile: 0 if none
// fits.
int inverted_residual_emulate(std::int64_t images, const std::int32_t* sizes, int precision,
                              int backward, const void* from, void* to, const void* first,
                              const float* taps, const void* second, const float* bias,
                              const void* added, std::uint8_t* bits_of_first,
                              std::uint8_t* bits_of_windows, std::uint8_t* last_bits,
                              const float* activations, int shared_limit, int processors,
                              std::uint64_t seed) {
  Args args{};
  args.sizes = {images,   sizes[0], sizes[1], sizes[2], sizes[3],  sizes[4],  sizes[5],
                sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], sizes[11], sizes[12]};
  args.precision = static_cast<Precision>(precision);
  args.backward = backward != 0;
  args.from = from;
  args.to = to;
  args.first = first;
  args.taps = taps;
  args.second = second;
  args.bias = bias;
  args.added = added;
  args.bits[0] = bits_of_first;
  args.bits[1] = bits_of_windows;
  args.last_bits = last_bits;
  args.activation[0] = {activations[0], activations[1]};
  args.activation[1] = {activations[2], activations[3]};
  args.last = {activations[4], activations[5]};
  const Plan plan = plan_of(args.sizes, args.precision, shared_limit, processors);
  if (plan.images == 0) return 0;
  host_cuda::Options options;
  options.seed = seed;
  options.dynamic_shared_bytes = static_cast<std::size_t>(plan.shared_bytes);
  choose(args, plan, [&](auto kernel) {
    host_cuda::launch_with(options, kernel, tiles_of(args.sizes, plan),
                           static_cast<unsigned int>(kThreads), args, plan);
  });
  return plan.images;
}

}  // extern "C"
