// One call's arguments on the device, and what a warp does with one row of a group's distances.
#pragma once

#include "common.cuh"

namespace fercore {

template <class T>
struct Call {
  int groups, targets, n, m, width, classes, weight_targets, label_targets, class_weight_targets;
  int64_t stride;
  bool sample, by_class;
  double spread;  // largest bandwidth over middle one
  Family<T> family;
  const T *x, *y, *wx, *wy, *cx, *cy;
  const int64_t *x_labels, *y_labels;

  __device__ int rows() const { return n + m; }
  __device__ const T* row(int g, int i) const {
    return i < n ? x + (static_cast<int64_t>(g) * n + i) * width
                 : y + (static_cast<int64_t>(g % targets) * m + i - n) * width;
  }
  // Column c of the point that centres the rows of a group, any near them: the mean of up to sixteen of the target's rows (of
  // x's where there is no target), so that one stray row does not carry it away.
  __device__ T middle(int g, int c) const {
    const int size = m > 0 ? m : n, count = size < 16 ? size : 16, step = size / count;
    const T* from = row(g, m > 0 ? n : 0) + c;
    T sum = 0;
    for (int i = 0; i < count; ++i) sum += from[static_cast<int64_t>(i) * step * width];
    return sum / count;
  }

  // Class of row i, or -1.
  __device__ int label(int g, int i) const {
    if (!by_class) return -1;
    const int64_t own = i < n ? x_labels[static_cast<int64_t>(g) * n + i]
                              : y_labels[static_cast<int64_t>(g % label_targets) * m + i - n];
    return own >= 0 && own < classes ? static_cast<int>(own) : -1;
  }

  // Sample-level weight of row i, negative on y's side.
  __device__ T omega(int g, int i) const {
    return i < n ? wx[static_cast<int64_t>(g) * n + i] : -wy[static_cast<int64_t>(g % weight_targets) * m + i - n];
  }

  // Class-level weight of row i as given.
  __device__ T weight(int g, int i) const {
    if (i < n) return cx == nullptr ? T(1) : cx[static_cast<int64_t>(g) * n + i];
    return cy == nullptr ? T(1) : cy[static_cast<int64_t>(g % class_weight_targets) * m + i - n];
  }

  __device__ T scale(double band) const { return static_cast<T>(1.0 / (band * spread)); }

  // Sums of class weights into mass[2K], x's classes first; the whole block takes part.
  __device__ void masses(int g, double* mass) const {
    const int lane = threadIdx.x % kWarp;
    for (int slot = threadIdx.x / kWarp; slot < 2 * classes; slot += kWarps) {
      const bool of_x = slot < classes;
      const int own = of_x ? slot : slot - classes;
      double sum = 0;
      for (int i = (of_x ? 0 : n) + lane; i < (of_x ? n : rows()); i += kWarp)
        if (label(g, i) == own) sum += weight(g, i);
      sum = warp_sum(sum);
      if (lane == 0) mass[slot] = sum;
    }
    __syncthreads();
  }

  // Class-level weight of row i of class `own`, normalised.
  __device__ T share(int g, int i, int own, const double* mass) const {
    const double total = mass[i < n ? own : classes + own];
    return total > 0 ? static_cast<T>(weight(g, i) / total) : T(0);
  }
};

template <class T>
Call<T> call_of(const Problem& p, int64_t num_kernels, double multiplier, const Tensor& x, const Tensor& y,
                const MaybeTensor& wx, const MaybeTensor& wy, const MaybeTensor& cx, const MaybeTensor& cy,
                const MaybeTensor& x_labels, const MaybeTensor& y_labels) {
  const auto data = [](const MaybeTensor& t) { return t.has_value() ? t->const_data_ptr() : nullptr; };
  const auto size = [](int64_t value) { return static_cast<int>(value); };
  return {size(p.groups), size(p.targets), size(p.n), size(p.m), size(p.width), size(p.classes), size(p.weight_targets),
          size(p.label_targets), size(p.class_weight_targets), p.stride(), p.sample, p.by_class,
          1.0 / largest_scale(1.0, num_kernels, multiplier), family_of<T>(num_kernels, multiplier),
          static_cast<const T*>(data(x)), static_cast<const T*>(data(y)), static_cast<const T*>(data(wx)),
          static_cast<const T*>(data(wy)), static_cast<const T*>(data(cx)), static_cast<const T*>(data(cy)),
          static_cast<const int64_t*>(data(x_labels)), static_cast<const int64_t*>(data(y_labels))};
}

}  // namespace fercore
