// Passes over the distances, a warp a row: bandwidths, values, coefficients. No atomics on floats: the block that finishes last
// adds the rows up in one order, so results repeat bit for bit.
#pragma once

#include "group.cuh"

namespace fercore {

// Doubles a row leaves behind: one for the sample level, K within its side, K across.
__host__ __device__ inline int64_t row_size(int64_t classes) { return 1 + 2 * classes; }

// Sum over rows i in [from, to) of class `own` (any class if own < -1) of parts[i][slot]; one warp.
template <class T>
__device__ inline double sum_rows(const Call<T>& call, int g, const double* parts, int from, int to, int own, int slot) {
  double sum = 0;
  for (int i = from + threadIdx.x % kWarp; i < to; i += kWarp)
    if (own < -1 || call.label(g, i) == own) sum += parts[i * row_size(call.classes) + slot];
  return warp_sum(sum);
}

template <class T>
__device__ inline double count_rows(const Call<T>& call, int g, int from, int to, int own) {
  double count = 0;
  for (int i = from + threadIdx.x % kWarp; i < to; i += kWarp) count += call.label(g, i) == own;
  return warp_sum(count);
}

// Mean squared distances -> bands [G, 1 + K*K].
template <class T>
__global__ void __launch_bounds__(kThreads)
    band_kernel(const Call<T> call, const T* distances, const T* given, const T* given_pairs, double* parts,
                unsigned int* counters, double* bands) {
  const int g = blockIdx.y, i = blockIdx.x * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int rows = call.rows(), classes = call.classes;
  parts += static_cast<int64_t>(g) * rows * row_size(classes);
  bands += static_cast<int64_t>(g) * (1 + classes * classes);
  if (i < rows) {
    const T* d = distances + (static_cast<int64_t>(g) * rows + i) * call.stride;
    double* part = parts + i * row_size(classes);
    double all = 0;
    for (int j = lane; j < rows; j += kWarp) all += d[j];
    all = warp_sum(all);
    if (lane == 0) part[0] = all;
    for (int side = 0; side < 2; ++side)
      for (int c = 0; c < classes; ++c) {
        double sum = 0;
        for (int j = (side == 0 ? 0 : call.n) + lane; j < (side == 0 ? call.n : rows); j += kWarp)
          if (call.label(g, j) == c) sum += d[j];
        sum = warp_sum(sum);
        if (lane == 0) part[1 + side * classes + c] = sum;
      }
  }
  if (!last_block(counters + g, gridDim.x)) return;
  for (int item = threadIdx.x / kWarp; item < 1 + classes * classes; item += kWarps) {
    double band;
    if (item == 0) {
      const double all = sum_rows(call, g, parts, 0, rows, -2, 0);
      band = given != nullptr ? given[g] : rows > 1 ? all / (static_cast<double>(rows) * (rows - 1)) : 0.0;
    } else {
      const int k = (item - 1) / classes, l = (item - 1) % classes;
      const double total = sum_rows(call, g, parts, 0, call.n, k, 1 + k) +
                           sum_rows(call, g, parts, call.n, rows, l, 1 + classes + l) +
                           2 * sum_rows(call, g, parts, 0, call.n, k, 1 + classes + l);
      const double count = count_rows(call, g, 0, call.n, k) + count_rows(call, g, call.n, rows, l);
      band = count > 1 ? total / (count * (count - 1)) : 0;
      if (given_pairs != nullptr) band = given_pairs[static_cast<int64_t>(g) * classes * classes + item - 1];
    }
    if (lane == 0) bands[item] = band < kMinBandwidth ? kMinBandwidth : band;
  }
}

// Sum over rows j in [from, to) of class `own` of share(j) k(d[j]); one warp.
template <class T>
__device__ inline double kernel_row(const Call<T>& call, int g, const T* d, int from, int to, int own, const double* mass,
                                    T scale) {
  double total = 0;
  for (int j = from + threadIdx.x % kWarp; j < to; j += kWarp) {
    if (call.label(g, j) != own) continue;
    T sum, slope;
    mixture(call.family, d[j], scale, sum, slope);
    total += static_cast<double>(call.share(g, j, own, mass)) * sum;
  }
  return warp_sum(total);
}

// What the rows left behind -> the outputs of group g; one block.
template <class T>
__device__ inline void add_up(const Call<T>& call, int g, const double* parts, const double* mass, T* sample, T* value,
                              bool* valid) {
  const int lane = threadIdx.x % kWarp, rows = call.rows(), classes = call.classes, pairs = classes * classes;
  for (int item = threadIdx.x / kWarp; item < 1 + pairs; item += kWarps) {
    if (item == 0) {
      const double total = sum_rows(call, g, parts, 0, rows, -2, 0);
      if (lane == 0) sample[g] = static_cast<T>(total);
      continue;
    }
    const int k = (item - 1) / classes, l = (item - 1) % classes;
    const double total = sum_rows(call, g, parts, 0, call.n, k, 1 + l) + sum_rows(call, g, parts, call.n, rows, l, 1 + k) -
                         2 * sum_rows(call, g, parts, 0, call.n, k, 1 + classes + l);
    const bool both = mass[k] > 0 && mass[classes + l] > 0;
    if (lane == 0) {
      valid[static_cast<int64_t>(g) * pairs + item - 1] = both;
      value[static_cast<int64_t>(g) * pairs + item - 1] = both ? static_cast<T>(total) : T(0);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    value_kernel(const Call<T> call, const T* distances, const double* bands, double* parts, unsigned int* counters,
                 T* sample, T* value, bool* valid) {
  double* mass = dynamic_shared();
  const int g = blockIdx.y, i = blockIdx.x * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int rows = call.rows(), classes = call.classes, pairs = classes * classes;
  parts += static_cast<int64_t>(g) * rows * row_size(classes);
  bands += static_cast<int64_t>(g) * (1 + pairs);
  call.masses(g, mass);
  if (i < rows) {
    const T* d = distances + (static_cast<int64_t>(g) * rows + i) * call.stride;
    double* part = parts + i * row_size(classes);
    double total = 0;
    if (call.sample) {
      const T scale = call.scale(bands[0]);
      for (int j = lane; j < rows; j += kWarp) {
        T sum, slope;
        mixture(call.family, d[j], scale, sum, slope);
        total += static_cast<double>(call.omega(g, j)) * sum;
      }
      total = warp_sum(total) * call.omega(g, i);
    }
    if (lane == 0) part[0] = total;
    const int own = call.label(g, i);
    const bool of_x = i < call.n;
    for (int c = 0; own >= 0 && c < classes; ++c) {
      const T scale = call.scale(bands[1 + (of_x ? own * classes + c : c * classes + own)]);
      const double share = call.share(g, i, own, mass);
      const double within = kernel_row(call, g, d, of_x ? 0 : call.n, of_x ? call.n : rows, own, mass, scale);
      const double across = of_x ? kernel_row(call, g, d, call.n, rows, c, mass, scale) : 0.0;
      if (lane == 0) {
        part[1 + c] = share * within;
        part[1 + classes + c] = share * across;
      }
    }
  }
  if (last_block(counters + g, gridDim.x)) add_up(call, g, parts, mass, sample, value, valid);
}

// 4 grad c_i c_j times minus dk/dd for the class pair (k, l); 0 where the pair is not valid.
template <class T>
__device__ inline T pair_slope(const Call<T>& call, const T* grad, const double* bands, const double* mass, int k, int l, T d) {
  const T factor = grad[k * call.classes + l];
  if (factor == 0 || !(mass[k] > 0 && mass[call.classes + l] > 0)) return 0;
  const T scale = call.scale(bands[1 + k * call.classes + l]);
  T sum, slope;
  mixture(call.family, d, scale, sum, slope);
  return 4 * factor * scale * slope;
}

// The sample level's coefficient between a row i, with its outer factor, and row j.
template <class T>
__device__ inline T sample_outer(const Call<T>& call, int g, int i, const T* grad, T scale) {
  return call.sample ? 4 * grad[g] * call.omega(g, i) * scale : T(0);
}

template <class T>
__device__ inline T sample_slope(const Call<T>& call, int g, int j, T outer, T scale, T d) {
  if (outer == 0) return 0;
  T sum, slope;
  mixture(call.family, d, scale, sum, slope);
  return outer * call.omega(g, j) * slope;
}

// The class level's coefficient between rows i and j.
template <class T>
__device__ inline T class_slope(const Call<T>& call, int g, int i, int j, int own, const T* grad, const double* bands,
                                const double* mass, T d) {
  const int other = call.label(g, j);
  const bool i_of_x = i < call.n, j_of_x = j < call.n;
  if (other < 0 || (i_of_x == j_of_x && other != own)) return 0;
  T slope = 0;
  if (i_of_x != j_of_x)
    slope = -pair_slope(call, grad, bands, mass, i_of_x ? own : other, i_of_x ? other : own, d);
  else
    for (int c = 0; c < call.classes; ++c)
      slope += pair_slope(call, grad, bands, mass, i_of_x ? own : c, i_of_x ? c : own, d);
  return slope * call.share(g, i, own, mass) * call.share(g, j, other, mass);
}

// The matrix whose product with the rows is the gradient: coefficients, and minus their row sums on the diagonal.
template <class T>
__global__ void __launch_bounds__(kThreads)
    coefficient_kernel(const Call<T> call, const T* distances, const double* bands, const T* grad_sample, const T* grad_value,
                       T* matrices) {
  double* mass = dynamic_shared();
  const int g = blockIdx.y, i = blockIdx.x * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int rows = call.rows(), pairs = call.classes * call.classes;
  call.masses(g, mass);
  if (i >= rows) return;
  bands += static_cast<int64_t>(g) * (1 + pairs);
  const T* d = distances + (static_cast<int64_t>(g) * rows + i) * call.stride;
  T* out = matrices + (static_cast<int64_t>(g) * rows + i) * call.stride;
  const T scale = call.scale(bands[0]), outer = sample_outer(call, g, i, grad_sample, scale);
  const int own = call.label(g, i);
  double total = 0;
  for (int j = lane; j < rows; j += kWarp) {
    T coefficient = 0;
    // Not d > 0: a NaN must reach the gradient. At distance 0 the gradient is 0.
    if (!(d[j] <= 0)) {
      coefficient = sample_slope(call, g, j, outer, scale, d[j]);
      if (own >= 0) coefficient += class_slope(call, g, i, j, own, grad_value + static_cast<int64_t>(g) * pairs, bands, mass, d[j]);
    }
    total += coefficient;
    if (j != i) out[j] = coefficient;
  }
  total = warp_sum(total);
  if (lane == 0) out[i] = static_cast<T>(-total);
}

}  // namespace fercore
