// One group's rows in class order, its weights and bandwidths, and the passes over its distances.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "../check.h"
#include "kernels.h"

namespace fercore {

// The kernel family as the vector kernels take it.
inline Mixture mixture_of(int64_t num_kernels, double multiplier) {
  Mixture mixture{static_cast<int>(num_kernels), multiplier == 2.0, {}};
  for (int64_t m = 0; m < num_kernels; ++m) mixture.factor[m] = std::pow(multiplier, static_cast<double>(m));
  return mixture;
}

// Rows of one side in class order: class 0 first, rows of no class last.
struct Order {
  std::vector<int32_t> row;    // sorted position -> row
  std::vector<int32_t> label;  // sorted position -> class or -1
  std::vector<int32_t> start;  // class -> first sorted position; [K] = end of the last class

  Order(const int64_t* labels, int64_t n, int64_t classes) : row(n), label(n, -1), start(classes + 2, 0) {
    const auto slot = [&](int64_t i) {
      return labels != nullptr && labels[i] >= 0 && labels[i] < classes ? labels[i] : classes;
    };
    for (int64_t i = 0; i < n; ++i) ++start[slot(i) + 1];
    for (int64_t k = 0; k <= classes; ++k) start[k + 1] += start[k];
    std::vector<int32_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t k = slot(i);
      row[next[k]] = static_cast<int32_t>(i);
      label[next[k]++] = k < classes ? static_cast<int32_t>(k) : -1;
    }
    start.pop_back();
  }
};

// Sums over pairs i < j of rows: the sample level with its factor 2, and K*K sums a class pair.
struct Sums {
  double sample = 0;
  std::vector<double> within_x, within_y, across;

  explicit Sums(int64_t classes)
      : within_x(classes * classes), within_y(classes * classes), across(classes * classes) {}

  void add(const Sums& other) {
    sample += other.sample;
    for (size_t i = 0; i < across.size(); ++i) {
      within_x[i] += other.within_x[i];
      within_y[i] += other.within_y[i];
      across[i] += other.across[i];
    }
  }
};

template <class T>
struct Group {
  int64_t n, m, classes;
  const Order& x;
  const Order& y;
  bool sample;
  std::vector<T> omega;            // signed sample-level weights of x then y in class order, y's negative; padded
  std::vector<T> weight;           // class-level weights, sum 1 in each class; padded
  std::vector<double> mass;        // [2K] sum of the class weights as given, x then y
  std::vector<double> self;        // [2K] sum of squares of the normalised class weights
  double sample_band = 0;
  std::vector<double> bands;       // [K*K]
  T sample_scale = 0;
  std::vector<T> scales;           // [K*K]

  Group(const Problem& p, const Order& x, const Order& y)
      : n(p.n), m(p.m), classes(p.classes), x(x), y(y), sample(p.sample), omega(p.rows() + 16), weight(p.rows() + 16),
        mass(2 * p.classes), self(2 * p.classes), bands(p.classes * p.classes), scales(p.classes * p.classes) {}

  int64_t rows() const { return n + m; }

  void set_sample_weights(const T* wx, const T* wy) {
    for (int64_t i = 0; i < n; ++i) omega[i] = wx[x.row[i]];
    for (int64_t j = 0; j < m; ++j) omega[n + j] = -wy[y.row[j]];
  }

  void set_class_weights(const T* cx, const T* cy) {
    side_weights(x, cx, 0, 0);
    side_weights(y, cy, n, classes);
  }

  bool valid(int64_t k, int64_t l) const { return mass[k] > 0 && mass[classes + l] > 0; }

  void set_scales(int64_t num_kernels, double multiplier) {
    sample_scale = static_cast<T>(largest_scale(sample_band, num_kernels, multiplier));
    for (int64_t i = 0; i < classes * classes; ++i)
      scales[i] = static_cast<T>(largest_scale(bands[i], num_kernels, multiplier));
  }

  // The segments of row i within columns [from, to): f(first, last, pair, kind) with kind 0 within x, 1 across, 2 within y.
  template <class F>
  void segments(int64_t i, int64_t from, int64_t to, const F& f) const {
    const int32_t own = i < n ? x.label[i] : y.label[i - n];
    if (own < 0) return;
    if (i >= n) {
      const int64_t a = std::max<int64_t>(from, n + y.start[own]), b = std::min<int64_t>(to, n + y.start[own + 1]);
      if (a < b)
        for (int64_t k = 0; k < classes; ++k) f(a, b, k * classes + own, 2);
      return;
    }
    const int64_t a = std::max<int64_t>(from, x.start[own]), b = std::min<int64_t>(to, x.start[own + 1]);
    for (int64_t l = 0; l < classes; ++l) {
      if (a < b) f(a, b, own * classes + l, 0);
      const int64_t c = std::max<int64_t>(from, n + y.start[l]), d = std::min<int64_t>(to, n + y.start[l + 1]);
      if (c < d) f(c, d, own * classes + l, 1);
    }
  }

  // Add row i's kernel sums over columns [from, to), all after i; d[0] is the distance to row `from`.
  void sum_row(const Kernels<T>& vec, const Mixture& mixture, int64_t i, int64_t from, int64_t to, const T* d,
               Sums& sums) const {
    if (sample) sums.sample += 2.0 * omega[i] * vec.row_sum(d, omega.data() + from, to - from, sample_scale, mixture);
    segments(i, from, to, [&](int64_t a, int64_t b, int64_t pair, int kind) {
      const double part = weight[i] * vec.row_sum(d + a - from, weight.data() + a, b - a, scales[pair], mixture);
      if (kind == 0) sums.within_x[pair] += 2 * part;
      if (kind == 1) sums.across[pair] += part;
      if (kind == 2) sums.within_y[pair] += 2 * part;
    });
  }

  // Add row i's coefficients over columns [from, to) to out: the gradient is coef u - rowsum(coef) u.
  // The factor 4: a pair counts twice, and |u - v|^2 has the gradient 2 (u - v); across the sides it counts -2 times.
  void slope_row(const Kernels<T>& vec, const Mixture& mixture, int64_t i, int64_t from, int64_t to, const T* d,
                 T grad_sample, const T* grad_value, T* out) const {
    if (sample && grad_sample != 0)
      vec.row_slope(d, omega.data() + from, to - from, sample_scale, 4 * grad_sample * omega[i], mixture, out);
    segments(i, from, to, [&](int64_t a, int64_t b, int64_t pair, int kind) {
      const T grad = grad_value[pair];
      if (grad == 0 || !valid(pair / classes, pair % classes)) return;
      const T alpha = (kind == 1 ? -4 : 4) * grad * weight[i];
      vec.row_slope(d + a - from, weight.data() + a, b - a, scales[pair], alpha, mixture, out + a - from);
    });
  }

  // Sums -> the sample value, and the values and validity of the class pairs.
  void finish(const Sums& sums, int64_t num_kernels, T* sample_out, T* value, bool* valid_out) const {
    // Pairs of a row with itself: at distance 0 each of the kernels is 1.
    double own = 0;
    for (int64_t i = 0; i < rows(); ++i) own += static_cast<double>(omega[i]) * omega[i];
    *sample_out = static_cast<T>(sample ? sums.sample + num_kernels * own : 0.0);
    for (int64_t k = 0; k < classes; ++k)
      for (int64_t l = 0; l < classes; ++l) {
        const int64_t pair = k * classes + l;
        const double diagonal = num_kernels * (self[k] + self[classes + l]);
        const double total = sums.within_x[pair] + sums.within_y[pair] - 2 * sums.across[pair] + diagonal;
        valid_out[pair] = valid(k, l);
        value[pair] = valid_out[pair] ? static_cast<T>(total) : T(0);
      }
  }

 private:
  void side_weights(const Order& side, const T* given, int64_t offset, int64_t slot) {
    for (int64_t k = 0; k < classes; ++k) {
      double total = 0, squares = 0;
      for (int32_t i = side.start[k]; i < side.start[k + 1]; ++i) total += given == nullptr ? 1.0 : given[side.row[i]];
      mass[slot + k] = total;
      for (int32_t i = side.start[k]; i < side.start[k + 1]; ++i) {
        const double w = given == nullptr ? 1.0 : given[side.row[i]];
        weight[offset + i] = static_cast<T>(total > 0 ? w / total : 0.0);
        squares += static_cast<double>(weight[offset + i]) * weight[offset + i];
      }
      self[slot + k] = squares;
    }
  }
};

// Memory of the calling thread that stays for the next call; one slot a use.
template <class T>
T* scratch(int slot, int64_t count) {
  static thread_local std::vector<T> kept[6];
  auto& buffer = kept[slot];
  if (static_cast<int64_t>(buffer.size()) < count + 64) buffer = std::vector<T>(count + 64);
  return buffer.data();
}

// Run f(0..count-1) on torch's threads, each taking the next item; items must not share outputs.
template <class F>
void run_items(int64_t count, const F& f) {
  std::atomic<int64_t> next{0};
  // One item at a time: items take unequal time, and a fixed division would wait for the longest.
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t item = next++; item < count; item = next++) f(item);
  });
}

// Fill what lies under the diagonal of a square matrix from what lies above it.
template <class T>
void mirror(T* matrix, int64_t n, int64_t stride) {
  constexpr int64_t block = 16;
  for (int64_t i = 0; i < n; i += block)
    for (int64_t j = i; j < n; j += block)
      for (int64_t r = i; r < std::min(n, i + block); ++r)
        for (int64_t c = std::max(r + 1, j); c < std::min(n, j + block); ++c) matrix[c * stride + r] = matrix[r * stride + c];
}

}  // namespace fercore
