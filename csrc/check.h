// What the CPU and CUDA twins share: argument checks in one order with one wording, sizes, and the layout of what is kept.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>

namespace fercore {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr double kMinBandwidth = 1e-12;
#ifndef FERCORE_DENSE_ROWS
#define FERCORE_DENSE_ROWS 1024
#endif
constexpr int64_t kDenseRows = FERCORE_DENSE_ROWS;  // N+M up to which the distances are kept; above, tiles are streamed
constexpr int64_t kRowPadding = 16;   // rows of kept distances start at multiples of this, and this much follows the last

// A contiguous tensor of these sizes beside `like`, uninitialised. Straight through the C interface: calls by name through the
// dispatcher cost microseconds, as much as a small op itself.
inline Tensor fresh(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  std::array<int64_t, 4> strides{};
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = step;
    step *= std::max<int64_t>(sizes.begin()[i], 1);
  }
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides.data(),
                                                         to<int32_t>(from(type)), to<int32_t>(from(like.device().type())),
                                                         like.get_device_index(), &handle));
  return Tensor(handle);
}

inline Tensor fresh(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return fresh(like, sizes, like.scalar_type());
}

inline Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }
inline MaybeTensor dense(const MaybeTensor& tensor) { return tensor.has_value() ? MaybeTensor(dense(*tensor)) : tensor; }

// Sizes of one call.
struct Problem {
  int64_t groups, targets, n, m, width, classes;
  bool sample, by_class;
  int64_t weight_targets, label_targets, class_weight_targets;  // leading sizes of wy, y_labels, cy: targets or groups

  int64_t rows() const { return n + m; }
  bool dense() const { return rows() <= kDenseRows; }
  int64_t stride() const { return (rows() + kRowPadding - 1) / kRowPadding * kRowPadding; }
  int64_t kept_distances() const { return groups * rows() * stride() + kRowPadding; }
};

inline void check_device(const MaybeTensor& tensor, const char* name, const Tensor& like) {
  if (!tensor.has_value()) return;
  STD_TORCH_CHECK(tensor->get_device_index() == like.get_device_index() && tensor->device().type() == like.device().type(),
                  name, " must be on the device of x");
}

inline void check_rows(const MaybeTensor& tensor, const char* name, const Tensor& like, int64_t groups, bool shared) {
  if (!tensor.has_value()) return;
  STD_TORCH_CHECK(tensor->dim() == 2 && tensor->size(1) == like.size(1), name, " must have one value a row");
  STD_TORCH_CHECK(tensor->size(0) == groups || (shared && tensor->size(0) == like.size(0)), name, " has ", tensor->size(0),
                  " groups, expected ", groups);
  check_device(tensor, name, like);
}

inline void check_type(const MaybeTensor& tensor, const char* name, ScalarType type) {
  if (tensor.has_value()) STD_TORCH_CHECK(tensor->scalar_type() == type, name, " has the wrong type");
}

inline Problem check_mmd(const Tensor& x, const Tensor& y, const MaybeTensor& wx, const MaybeTensor& wy,
                         const MaybeTensor& cx, const MaybeTensor& cy, const MaybeTensor& x_labels,
                         const MaybeTensor& y_labels, int64_t num_classes, int64_t num_kernels, double multiplier) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3, "x and y must be [G,N,D] and [Gy,M,D]");
  STD_TORCH_CHECK(x.size(2) == y.size(2), "x and y must have the same width, got ", x.size(2), " and ", y.size(2));
  STD_TORCH_CHECK(x.size(0) == y.size(0) || (y.size(0) > 0 && x.size(0) % y.size(0) == 0),
                  "the groups of x must be a multiple of those of y, got ", x.size(0), " and ", y.size(0));
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "x must be float32 or float64");
  STD_TORCH_CHECK(num_kernels >= 1 && num_kernels <= 16, "num_kernels must be in 1..16, got ", num_kernels);
  STD_TORCH_CHECK(multiplier > 0, "multiplier must be positive, got ", multiplier);
  STD_TORCH_CHECK(num_classes >= 0, "num_classes must not be negative, got ", num_classes);
  STD_TORCH_CHECK(wx.has_value() == wy.has_value(), "wx and wy come together");
  STD_TORCH_CHECK(x_labels.has_value() == y_labels.has_value(), "x_labels and y_labels come together");
  const int64_t groups = x.size(0);
  check_type(Tensor(y), "y", type);
  check_device(Tensor(y), "y", x);
  for (const auto& [tensor, name] : {std::pair{&wx, "wx"}, {&cx, "cx"}}) {
    check_type(*tensor, name, type);
    check_rows(*tensor, name, x, groups, false);
  }
  for (const auto& [tensor, name] : {std::pair{&wy, "wy"}, {&cy, "cy"}}) {
    check_type(*tensor, name, type);
    check_rows(*tensor, name, y, groups, true);
  }
  check_type(x_labels, "x_labels", ScalarType::Long);
  check_type(y_labels, "y_labels", ScalarType::Long);
  check_rows(x_labels, "x_labels", x, groups, false);
  check_rows(y_labels, "y_labels", y, groups, true);
  const bool by_class = x_labels.has_value();
  return {groups, y.size(0), x.size(1), y.size(1), x.size(2), by_class ? num_classes : 0, wx.has_value(), by_class,
          wy.has_value() ? wy->size(0) : groups, y_labels.has_value() ? y_labels->size(0) : y.size(0),
          cy.has_value() ? cy->size(0) : groups};
}

inline void check_mpc(const Tensor& p, const Tensor& q) {
  STD_TORCH_CHECK(p.dim() == 3 && q.dim() == 3, "p and q must be [G,B,K]");
  for (int64_t i = 0; i < 3; ++i) STD_TORCH_CHECK(p.size(i) == q.size(i), "p and q must have one shape");
  const ScalarType type = p.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "p must be float32 or float64");
  STD_TORCH_CHECK(q.scalar_type() == type, "p and q must have one type");
  check_device(Tensor(q), "q", p);
}

// What the backward ops take beside the forward's inputs: so many numbers of one type, beside `like`.
inline void check_given(const Tensor& tensor, const char* name, const Tensor& like, ScalarType type, int64_t count) {
  STD_TORCH_CHECK(tensor.numel() == count, name, " must have ", count, " values, got ", tensor.numel());
  check_type(MaybeTensor(tensor), name, type);
  check_device(MaybeTensor(tensor), name, like);
}

inline void check_bandwidth(const MaybeTensor& bandwidth, const char* name, const Tensor& like, int64_t count) {
  if (bandwidth.has_value()) check_given(*bandwidth, name, like, like.scalar_type(), count);
}

inline void check_mmd_backward(const Problem& p, const Tensor& grad_sample, const Tensor& grad_value, const Tensor& x,
                               const Tensor& bands, const Tensor& memo, int64_t memo_size) {
  const int64_t pairs = p.classes * p.classes;
  check_given(grad_sample, "grad_sample", x, x.scalar_type(), p.groups);
  check_given(grad_value, "grad_value", x, x.scalar_type(), p.groups * pairs);
  check_given(bands, "bands", x, ScalarType::Double, p.groups * (1 + pairs));
  STD_TORCH_CHECK(bands.is_contiguous() && memo.is_contiguous(), "bands and memo must be those of the forward");
  STD_TORCH_CHECK(memo.numel() == memo_size, "memo must be that of a forward called with keep");
  check_given(memo, "memo", x, x.scalar_type(), memo_size);
}

inline void check_mpc_backward(const Tensor& grad, const Tensor& p, const Tensor& joint) {
  check_given(grad, "grad", p, p.scalar_type(), p.size(0));
  check_given(joint, "joint", p, p.scalar_type(), p.size(0) * p.size(2) * p.size(2));
}

// The inverse of the mixture's largest bandwidth, from its middle one.
inline double largest_scale(double bandwidth, int64_t num_kernels, double multiplier) {
  return 1.0 / (bandwidth * std::pow(multiplier, static_cast<double>(num_kernels - 1 - num_kernels / 2)));
}

}  // namespace fercore
