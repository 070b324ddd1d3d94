// Mutual prediction consistency on the CPU: one pass over the samples each way, groups in parallel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../mpc_form.h"
#include "kernels.h"

namespace fercore {
namespace {

constexpr int64_t kFew = 8;  // classes up to which the vector kernels serve

constexpr int64_t room_for(int64_t classes) { return 2 * classes * classes + 6 * classes; }

// Room for one group's matrix, its sums and what they are used for; on the stack up to kFew classes.
class Room {
 public:
  explicit Room(int64_t classes) : classes_(classes) {
    if (classes > kFew) heap_.resize(room_for(classes));
    start_ = classes > kFew ? heap_.data() : stack_;
  }
  double* joint() { return start_; }
  double* slope() { return start_ + classes_ * classes_; }
  // Vectors [K].
  double* row() { return vector(0); }
  double* column() { return vector(1); }
  double* inverse_row() { return vector(2); }
  double* inverse_column() { return vector(3); }
  double* pull_row() { return vector(4); }
  double* pull_column() { return vector(5); }

  // Fills the sums of joint and their clamped inverses.
  void sum_up() {
    mpc_sums(joint(), classes_, row(), column());
    for (int64_t k = 0; k < classes_; ++k) {
      inverse_row()[k] = 1 / mpc_clamp(row()[k]);
      inverse_column()[k] = 1 / mpc_clamp(column()[k]);
    }
  }

 private:
  double* vector(int64_t number) { return start_ + 2 * classes_ * classes_ + number * classes_; }

  int64_t classes_;
  double stack_[room_for(kFew)];
  std::vector<double> heap_;
  double* start_;
};

// sums [K,K] = p^T q in double precision.
template <class T>
void joint_sums(const T* p, const T* q, int64_t batch, int64_t classes, double* sums) {
  if (classes <= kFew) return kernels<T>().outer(p, q, batch, classes, sums);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t k = 0; k < classes; ++k)
      for (int64_t l = 0; l < classes; ++l)
        sums[k * classes + l] += static_cast<double>(p[b * classes + k]) * q[b * classes + l];
}

// out [B,K] = p [B,K] times matrix [K,K], or its transpose.
template <class T>
void rows_times(const T* p, const double* matrix, bool turned, int64_t batch, int64_t classes, T* out) {
  if (classes <= kFew) return kernels<T>().apply(p, matrix, turned, batch, classes, out);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t l = 0; l < classes; ++l) {
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += p[b * classes + k] * matrix[turned ? l * classes + k : k * classes + l];
      out[b * classes + l] = static_cast<T>(sum);
    }
}

template <class T>
void forward_group(const T* p, const T* q, int64_t batch, int64_t classes, bool offdiag, T* joint, T* value) {
  Room room(classes);
  const double* sums = room.joint();
  joint_sums(p, q, batch, classes, room.joint());
  for (int64_t i = 0; i < classes * classes; ++i) joint[i] = static_cast<T>(sums[i]);
  room.sum_up();
  double total = 0;
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t l = 0; l < classes; ++l)
      total += mpc_entry(sums[k * classes + l], k == l, room.inverse_row()[k], room.inverse_column()[l], offdiag);
  *value = static_cast<T>(total / (2.0 * static_cast<double>(classes > 0 ? classes : 1)));
}

template <class T>
void backward_group(T grad, const T* p, const T* q, const T* joint, int64_t batch, int64_t classes, bool offdiag, T* grad_p,
                    T* grad_q) {
  Room room(classes);
  // From what the forward kept, not from p and q: a pass over the batch less.
  std::copy_n(joint, classes * classes, room.joint());
  room.sum_up();
  for (int64_t k = 0; k < classes; ++k) {
    room.pull_row()[k] = mpc_pull(room.joint(), classes, k, true, room.row()[k], room.inverse_row()[k], offdiag);
    room.pull_column()[k] = mpc_pull(room.joint(), classes, k, false, room.column()[k], room.inverse_column()[k], offdiag);
  }
  const double factor = grad / (2.0 * static_cast<double>(classes));
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t l = 0; l < classes; ++l)
      room.slope()[k * classes + l] =
          factor * mpc_slope(room.joint()[k * classes + l], k == l, room.inverse_row()[k], room.inverse_column()[l],
                             room.pull_row()[k], room.pull_column()[l], offdiag);
  rows_times(q, room.slope(), true, batch, classes, grad_p);
  rows_times(p, room.slope(), false, batch, classes, grad_q);
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
  check_mpc_backward(grad_in, p_in, joint_in);
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
