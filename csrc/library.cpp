// Every schema of the library. The kernels register themselves: cpu/*.cpp here, cuda/*.cu in a library of its own.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fercore, m) {
  // Groups of rows x [G,N,D] against y [Gy,M,D] (group g meets y[g % Gy]). sample [G] needs wx and wy, value and valid
  // [G,K,K] need the labels. bands [G,1+K*K] float64 are the bandwidths used; memo is what the backward reads, if keep.
  m.def(
      "mmd(Tensor x, Tensor y, Tensor? wx, Tensor? wy, Tensor? cx, Tensor? cy, Tensor? x_labels, Tensor? y_labels, "
      "Tensor? bandwidth, Tensor? class_bandwidth, int num_classes, int num_kernels, float multiplier, bool keep) -> "
      "(Tensor sample, Tensor value, Tensor valid, Tensor bands, Tensor memo)");
  m.def(
      "mmd_backward(Tensor grad_sample, Tensor grad_value, Tensor x, Tensor y, Tensor? wx, Tensor? wy, Tensor? cx, "
      "Tensor? cy, Tensor? x_labels, Tensor? y_labels, Tensor bands, Tensor memo, int num_classes, int num_kernels, "
      "float multiplier) -> (Tensor grad_x, Tensor grad_y)");
  // p, q [G,B,K] -> value [G], joint = p^T q [G,K,K].
  m.def("mpc(Tensor p, Tensor q, bool offdiag) -> (Tensor value, Tensor joint)");
  m.def("mpc_backward(Tensor grad, Tensor p, Tensor q, Tensor joint, bool offdiag) -> (Tensor grad_p, Tensor grad_q)");
}
