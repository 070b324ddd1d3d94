// Mutual prediction consistency on the GPU: one kernel forward, one backward, a block a group.
#include "../mpc_form.h"
#include "common.cuh"

#include <tuple>

namespace fercore {
namespace {

constexpr int64_t kMostClasses = 48;  // two K x K matrices of doubles in 48 KiB of shared memory

// Row and column sums of joint, K threads.
__device__ void sums_of(const double* joint, int classes, double* row, double* column) {
  for (int k = threadIdx.x; k < classes; k += kThreads) {
    row[k] = column[k] = 0;
    for (int l = 0; l < classes; ++l) {
      row[k] += joint[k * classes + l];
      column[k] += joint[l * classes + k];
    }
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* p, const T* q, int batch, int classes, bool offdiag, T* joint_out, T* value) {
  double *joint = dynamic_shared(), *row = joint + classes * classes, *column = row + classes;
  const int64_t g = blockIdx.x;
  const int lane = threadIdx.x % kWarp;
  p += g * batch * classes;
  q += g * batch * classes;
  for (int entry = threadIdx.x / kWarp; entry < classes * classes; entry += kWarps) {
    const int k = entry / classes, l = entry % classes;
    double sum = 0;
    for (int b = lane; b < batch; b += kWarp) sum += static_cast<double>(p[b * classes + k]) * q[b * classes + l];
    sum = warp_sum(sum);
    if (lane == 0) {
      joint[entry] = sum;
      joint_out[g * classes * classes + entry] = static_cast<T>(sum);
    }
  }
  __syncthreads();
  sums_of(joint, classes, row, column);
  // One warp adds the entries up, in one order.
  if (threadIdx.x >= kWarp) return;
  double total = 0;
  for (int entry = lane; entry < classes * classes; entry += kWarp) {
    const int k = entry / classes, l = entry % classes;
    total += mpc_entry(joint[entry], k == l, 1 / mpc_clamp(row[k]), 1 / mpc_clamp(column[l]), offdiag);
  }
  total = warp_sum(total);
  if (lane == 0) value[g] = static_cast<T>(total / (2.0 * (classes > 0 ? classes : 1)));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* grad, const T* p, const T* q, const T* joint_in, int batch, int classes, bool offdiag, T* grad_p,
                    T* grad_q) {
  const int pairs = classes * classes;
  double *joint = dynamic_shared(), *slope = joint + pairs, *row = slope + pairs, *column = row + classes;
  double *pull_row = column + classes, *pull_column = pull_row + classes;
  const int64_t g = blockIdx.x;
  for (int entry = threadIdx.x; entry < pairs; entry += kThreads) joint[entry] = joint_in[g * pairs + entry];
  __syncthreads();
  sums_of(joint, classes, row, column);
  for (int k = threadIdx.x; k < classes; k += kThreads) {
    pull_row[k] = mpc_pull(joint, classes, k, true, row[k], 1 / mpc_clamp(row[k]), offdiag);
    pull_column[k] = mpc_pull(joint, classes, k, false, column[k], 1 / mpc_clamp(column[k]), offdiag);
  }
  __syncthreads();
  const double factor = grad[g] / (2.0 * classes);
  for (int entry = threadIdx.x; entry < pairs; entry += kThreads) {
    const int k = entry / classes, l = entry % classes;
    slope[entry] = factor * mpc_slope(joint[entry], k == l, 1 / mpc_clamp(row[k]), 1 / mpc_clamp(column[l]), pull_row[k],
                                      pull_column[l], offdiag);
  }
  __syncthreads();
  const int64_t base = g * batch * classes;
  for (int item = threadIdx.x; item < batch * classes; item += kThreads) {
    const int b = item / classes, k = item % classes;
    double left = 0, right = 0;
    for (int l = 0; l < classes; ++l) {
      left += slope[k * classes + l] * q[base + b * classes + l];
      right += slope[l * classes + k] * p[base + b * classes + l];
    }
    grad_p[base + item] = static_cast<T>(left);
    grad_q[base + item] = static_cast<T>(right);
  }
}

void check_sizes(const Tensor& p) {
  STD_TORCH_CHECK(p.size(1) * p.size(2) < (1LL << 31), "the CUDA kernels take groups of at most 2^31 numbers");
  STD_TORCH_CHECK(p.size(2) <= kMostClasses, "the CUDA kernels take at most ", kMostClasses, " classes, got ", p.size(2));
}

template <class F>
void by_type(const Tensor& p, const F& f) {
  p.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

std::tuple<Tensor, Tensor> mpc(const Tensor& p_in, const Tensor& q_in, bool offdiag) {
  check_mpc(p_in, q_in);
  check_sizes(p_in);
  const Device device(p_in);
  const Tensor p = dense(p_in), q = dense(q_in);
  const int64_t groups = p.size(0), classes = p.size(2);
  Tensor value = fresh(p, {groups});
  Tensor joint = fresh(p, {groups, classes, classes});
  if (groups == 0) return {value, joint};
  by_type(p, [&](auto type) {
    using T = decltype(type);
    const size_t memory = (classes * classes + 2 * classes) * sizeof(double);
    launch(device, forward_kernel<T>, dim3(groups), memory, static_cast<const T*>(p.const_data_ptr()),
           static_cast<const T*>(q.const_data_ptr()), p.size(1), classes, offdiag, static_cast<T*>(joint.mutable_data_ptr()),
           static_cast<T*>(value.mutable_data_ptr()));
  });
  return {value, joint};
}

std::tuple<Tensor, Tensor> mpc_backward(const Tensor& grad_in, const Tensor& p_in, const Tensor& q_in, const Tensor& joint_in,
                                        bool offdiag) {
  check_mpc(p_in, q_in);
  check_sizes(p_in);
  check_mpc_backward(grad_in, p_in, joint_in);
  const Device device(p_in);
  const Tensor p = dense(p_in), q = dense(q_in);
  const Tensor grad = dense(grad_in), joint = dense(joint_in);
  const int64_t groups = p.size(0), classes = p.size(2);
  Tensor grad_p = fresh(p, {groups, p.size(1), classes});
  Tensor grad_q = fresh(p, {groups, p.size(1), classes});
  if (groups == 0) return {grad_p, grad_q};
  by_type(p, [&](auto type) {
    using T = decltype(type);
    const auto data = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    const size_t memory = (2 * classes * classes + 4 * classes) * sizeof(double);
    launch(device, backward_kernel<T>, dim3(groups), memory, data(grad), data(p), data(q), data(joint), p.size(1), classes,
           offdiag, static_cast<T*>(grad_p.mutable_data_ptr()), static_cast<T*>(grad_q.mutable_data_ptr()));
  });
  return {grad_p, grad_q};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fercore, CUDA, m) {
  m.impl("mpc", TORCH_BOX(&mpc));
  m.impl("mpc_backward", TORCH_BOX(&mpc_backward));
}

}  // namespace fercore
