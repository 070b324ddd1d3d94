// What the CUDA kernels share: the stream, sums over a warp, the mixture of Gaussians.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime.h>

#include "../check.h"

namespace fercore {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// The sum over a warp's lanes, in one fixed order, in every lane.
__device__ inline double warp_sum(double value) {
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
