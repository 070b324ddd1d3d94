// The arguments of an MMD call as raw pointers, and the two ways to compute it.
#pragma once

#include "group.h"

namespace fercore {

template <class T>
struct Inputs {
  Problem p;
  const T *x, *y, *wx, *wy, *cx, *cy;
  const int64_t *x_labels, *y_labels;
  int64_t num_kernels;
  double multiplier;

  const T* rows_of_x(int64_t g) const { return x + g * p.n * p.width; }
  const T* rows_of_y(int64_t g) const { return y + g % std::max<int64_t>(p.targets, 1) * p.m * p.width; }
  const int64_t* labels_of_x(int64_t g) const { return x_labels == nullptr ? nullptr : x_labels + g * p.n; }
  const int64_t* labels_of_y(int64_t g) const {
    return y_labels == nullptr ? nullptr : y_labels + g % std::max<int64_t>(p.label_targets, 1) * p.m;
  }

  void set_weights(Group<T>& group, int64_t g) const {
    if (p.sample) group.set_sample_weights(wx + g * p.n, wy + g % p.weight_targets * p.m);
    if (p.by_class)
      group.set_class_weights(cx == nullptr ? nullptr : cx + g * p.n,
                              cy == nullptr ? nullptr : cy + g % p.class_weight_targets * p.m);
  }
};

template <class T>
struct Forward {
  const T *bandwidth, *class_bandwidth;
  T *sample, *value;
  bool* valid;
  double* bands;
  T* memo;  // distances (dense), the gradient for a unit output (streamed sample level), or null

  // Take the bandwidths that were given, or compute them.
  template <class F>
  void choose_bands(Group<T>& group, int64_t g, const F& compute) const {
    const int64_t pairs = group.classes * group.classes;
    if ((group.sample && bandwidth == nullptr) || (pairs > 0 && class_bandwidth == nullptr)) compute();
    if (bandwidth != nullptr) group.sample_band = bandwidth[g];
    if (class_bandwidth != nullptr) std::copy_n(class_bandwidth + g * pairs, pairs, group.bands.begin());
    group.sample_band = std::max(group.sample_band, kMinBandwidth);
    bands[g * (pairs + 1)] = group.sample_band;
    for (int64_t i = 0; i < pairs; ++i)
      bands[g * (pairs + 1) + 1 + i] = group.bands[i] = std::max(group.bands[i], kMinBandwidth);
  }
};

template <class T>
struct Backward {
  const T *grad_sample, *grad_value;
  const double* bands;
  const T* memo;
  T *grad_x, *grad_y;  // zeroed for the streamed form

  void take_bands(Group<T>& group, int64_t g) const {
    const int64_t pairs = group.classes * group.classes;
    group.sample_band = bands[g * (pairs + 1)];
    std::copy_n(bands + g * (pairs + 1) + 1, pairs, group.bands.begin());
  }
};

// The mean of y's rows (of x's where y has none), to single precision: any point near the rows serves.
template <class T>
void find_centre(const Kernels<T>& vec, const Inputs<T>& in, int64_t g, T* centre) {
  const bool has_y = in.p.m > 0;
  const T* rows = has_y ? in.rows_of_y(g) : in.rows_of_x(g);
  const int64_t count = has_y ? in.p.m : in.p.n;
  std::fill_n(centre, in.p.width, T(0));
  for (int64_t r = 0; r < count; ++r) vec.add(centre, rows + r * in.p.width, in.p.width);
  for (int64_t c = 0; c < in.p.width; ++c) centre[c] /= static_cast<T>(std::max<int64_t>(count, 1));
}

// Columns of a row of features in scratch: whole vectors, and one more so that rows do not meet in one cache set.
template <class T>
int64_t padded(const Kernels<T>& vec, int64_t width) {
  return (width + vec.width - 1) / vec.width * vec.width + vec.width;
}

template <class T>
void dense_forward(const Inputs<T>& in, const Forward<T>& out);
template <class T>
void dense_backward(const Inputs<T>& in, const Backward<T>& out);
template <class T>
void stream_forward(const Inputs<T>& in, const Forward<T>& out);
template <class T>
void stream_backward(const Inputs<T>& in, const Backward<T>& out);

}  // namespace fercore
