// What the CUDA kernels share: the stream, sums over a warp, the mixture of Gaussians.
#pragma once

#include <torch/csrc/stable/library.h>

#include "../check.h"

#ifdef FERCORE_EMULATED
#include "emulated.h"  // of tests/ops/emulated: threads as fibers on the CPU, so that the kernels' logic is tested without a GPU
#else
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime.h>
#endif

namespace fercore {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

#ifdef FERCORE_EMULATED
using emulated::Device;
using emulated::dynamic_shared;
using emulated::launch;
#else
// The device of a tensor made current, with its current stream.
class Device {
 public:
  explicit Device(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }
  void zero(void* memory, size_t bytes) const { STD_CUDA_CHECK(cudaMemsetAsync(memory, 0, bytes, stream_)); }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Blocks of kThreads with `memory` bytes of dynamic shared memory.
template <class... P, class... A>
void launch(const Device& device, void (*kernel)(P...), dim3 grid, size_t memory, const A&... arguments) {
  kernel<<<grid, kThreads, memory, device.stream()>>>(static_cast<P>(arguments)...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

__device__ inline double* dynamic_shared() {
  extern __shared__ double memory[];
  return memory;
}
#endif

// The sum over a warp's lanes, in one fixed order, in every lane.
__device__ inline double warp_sum(double value) {
  // Pairwise, and every lane adds the same pairs: all end with the same bits.
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// True in every thread of the block that finishes last of `blocks`; what the others wrote is then visible.
__device__ inline bool last_block(unsigned int* counter, unsigned int blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

template <class T>
struct Family {
  int count;
  bool squares;
  T factor[16];
};

template <class T>
Family<T> family_of(int64_t num_kernels, double multiplier) {
  Family<T> family{static_cast<int>(num_kernels), multiplier == 2.0, {}};
  for (int64_t m = 0; m < num_kernels; ++m)
    family.factor[m] = static_cast<T>(std::pow(multiplier, static_cast<double>(m)));
  return family;
}

// Sum of the mixture's terms at distance d, and of terms times factors; scale is the inverse of the largest bandwidth.
template <class T>
__device__ inline void mixture(const Family<T>& family, T d, T scale, T& sum, T& slope) {
  if (family.squares) {
    T power = exp(-d * scale), factor = 1;
    sum = slope = power;
    for (int m = 1; m < family.count; ++m) {
      power *= power;
      factor += factor;
      sum += power;
      slope += factor * power;
    }
    return;
  }
  sum = slope = 0;
  for (int m = 0; m < family.count; ++m) {
    const T power = exp(-d * scale * family.factor[m]);
    sum += power;
    slope += family.factor[m] * power;
  }
}

}  // namespace fercore
