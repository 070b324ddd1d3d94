// Mutual prediction consistency on the CPU: one pass over the samples each way, groups in parallel.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "../mpc_form.h"
#include "kernels.h"

namespace fercore {
namespace {

constexpr int64_t kFew = 8;  // classes up to which the vector kernels serve

// sums [K*K] = p^T q in double precision.
template <class T>
void joint_sums(const T* p, const T* q, int64_t batch, int64_t classes, double* sums) {
  if (classes <= kFew) {
    double padded[kFew][kFew];
    kernels<T>().outer(p, q, batch, classes, padded);
    for (int64_t i = 0; i < classes * classes; ++i) sums[i] = padded[i / classes][i % classes];
    return;
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t k = 0; k < classes; ++k)
      for (int64_t l = 0; l < classes; ++l)
        sums[k * classes + l] += static_cast<double>(p[b * classes + k]) * q[b * classes + l];
}

// out [B,K] = p [B,K] matrix [K,K].
template <class T>
void rows_times(const T* p, const double* matrix, int64_t batch, int64_t classes, T* out) {
  if (classes <= kFew) {
    double padded[kFew][kFew] = {};
    for (int64_t i = 0; i < classes * classes; ++i) padded[i / classes][i % classes] = matrix[i];
    kernels<T>().apply(p, padded, batch, classes, out);
    return;
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t l = 0; l < classes; ++l) {
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += p[b * classes + k] * matrix[k * classes + l];
      out[b * classes + l] = static_cast<T>(sum);
    }
}

template <class T>
void forward_group(const T* p, const T* q, int64_t batch, int64_t classes, bool offdiag, T* joint, T* value) {
  std::vector<double> sums(classes * classes), row(classes), column(classes);
  joint_sums(p, q, batch, classes, sums.data());
  for (int64_t i = 0; i < classes * classes; ++i) joint[i] = static_cast<T>(sums[i]);
  mpc_sums(sums.data(), classes, row.data(), column.data());
  double total = 0;
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t l = 0; l < classes; ++l) total += mpc_entry(sums[k * classes + l], k == l, row[k], column[l], offdiag);
  *value = static_cast<T>(total / (2.0 * static_cast<double>(classes > 0 ? classes : 1)));
}

template <class T>
void backward_group(T grad, const T* p, const T* q, const T* joint, int64_t batch, int64_t classes, bool offdiag, T* grad_p,
                    T* grad_q) {
  const int64_t pairs = classes * classes;
  std::vector<double> sums(joint, joint + pairs), row(classes), column(classes), slope(pairs), turned(pairs);
  mpc_sums(sums.data(), classes, row.data(), column.data());
  mpc_slopes(sums.data(), classes, row.data(), column.data(), offdiag, grad / (2.0 * static_cast<double>(classes)),
             slope.data());
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t l = 0; l < classes; ++l) turned[l * classes + k] = slope[k * classes + l];
  rows_times(q, turned.data(), batch, classes, grad_p);
  rows_times(p, slope.data(), batch, classes, grad_q);
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Groups in parallel where there is enough work to share.
template <class F>
void each_group(const Tensor& p, const F& f) {
  const int64_t work = p.size(1) * p.size(2) * p.size(2) + 1;
  torch::stable::parallel_for(0, p.size(0), 1 + 65536 / work, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) f(g);
  });
}

template <class F>
void by_type(const Tensor& p, const F& f) {
  p.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

std::tuple<Tensor, Tensor> mpc(const Tensor& p_in, const Tensor& q_in, bool offdiag) {
  check_mpc(p_in, q_in);
  const Tensor p = dense(p_in), q = dense(q_in);
  const int64_t batch = p.size(1), classes = p.size(2), size = batch * classes;
  Tensor value = fresh(p, {p.size(0)});
  Tensor joint = fresh(p, {p.size(0), classes, classes});
  by_type(p, [&](auto type) {
    using T = decltype(type);
    each_group(p, [&](int64_t g) {
      forward_group(data<T>(p) + g * size, data<T>(q) + g * size, batch, classes, offdiag,
                    data<T>(joint) + g * classes * classes, data<T>(value) + g);
    });
  });
  return {value, joint};
}

std::tuple<Tensor, Tensor> mpc_backward(const Tensor& grad_in, const Tensor& p_in, const Tensor& q_in,
                                        const Tensor& joint_in, bool offdiag) {
  check_mpc(p_in, q_in);
  STD_TORCH_CHECK(grad_in.numel() == p_in.size(0), "grad must be [G]");
  STD_TORCH_CHECK(joint_in.numel() == p_in.size(0) * p_in.size(2) * p_in.size(2), "joint must be [G,K,K]");
  const Tensor p = dense(p_in), q = dense(q_in);
  const Tensor grad = dense(grad_in), joint = dense(joint_in);
  const int64_t batch = p.size(1), classes = p.size(2), size = batch * classes;
  Tensor grad_p = fresh(p, {p.size(0), batch, classes});
  Tensor grad_q = fresh(p, {p.size(0), batch, classes});
  by_type(p, [&](auto type) {
    using T = decltype(type);
    each_group(p, [&](int64_t g) {
      backward_group(data<T>(grad)[g], data<T>(p) + g * size, data<T>(q) + g * size,
                     data<T>(joint) + g * classes * classes, batch, classes, offdiag, data<T>(grad_p) + g * size,
                     data<T>(grad_q) + g * size);
    });
  });
  return {grad_p, grad_q};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fercore, CPU, m) {
  m.impl("mpc", TORCH_BOX(&mpc));
  m.impl("mpc_backward", TORCH_BOX(&mpc_backward));
}

}  // namespace fercore
