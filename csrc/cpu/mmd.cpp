// The MMD ops on the CPU: checks, outputs, and the choice between kept and streamed distances.
#include "mmd.h"

#include <torch/csrc/stable/library.h>

namespace fercore {
namespace {

template <class T>
const T* data(const MaybeTensor& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// The arguments, made contiguous and kept alive for the call.
struct Arguments {
  Problem p;
  Tensor x, y;
  MaybeTensor wx, wy, cx, cy, x_labels, y_labels;
  int64_t num_kernels;
  double multiplier;

  template <class T>
  Inputs<T> inputs() const {
    return {p, data<T>(x), data<T>(y), data<T>(wx), data<T>(wy), data<T>(cx), data<T>(cy), data<int64_t>(x_labels),
            data<int64_t>(y_labels), num_kernels, multiplier};
  }
};

Arguments arguments(const Tensor& x, const Tensor& y, const MaybeTensor& wx, const MaybeTensor& wy, const MaybeTensor& cx,
                    const MaybeTensor& cy, const MaybeTensor& x_labels, const MaybeTensor& y_labels, int64_t num_classes,
                    int64_t num_kernels, double multiplier) {
  const Problem p = check_mmd(x, y, wx, wy, cx, cy, x_labels, y_labels, num_classes, num_kernels, multiplier);
  return {p, dense(x), dense(y), dense(wx), dense(wy), dense(cx),
          dense(cy), dense(x_labels), dense(y_labels), num_kernels, multiplier};
}

template <class F>
auto by_type(const Tensor& x, const F& f) {
  return x.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

int64_t memo_size(const Problem& p, bool keep) {
  if (!keep || p.groups == 0) return 0;
  if (p.dense()) return p.kept_distances();
  return p.by_class ? 0 : p.groups * p.rows() * p.width;
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Results mmd(const Tensor& x, const Tensor& y, const MaybeTensor& wx, const MaybeTensor& wy, const MaybeTensor& cx,
            const MaybeTensor& cy, const MaybeTensor& x_labels, const MaybeTensor& y_labels, const MaybeTensor& bandwidth,
            const MaybeTensor& class_bandwidth, int64_t num_classes, int64_t num_kernels, double multiplier, bool keep) {
  const Arguments a = arguments(x, y, wx, wy, cx, cy, x_labels, y_labels, num_classes, num_kernels, multiplier);
  const Problem& p = a.p;
  const int64_t pairs = p.classes * p.classes;
  check_bandwidth(bandwidth, "bandwidth", x, p.groups);
  check_bandwidth(class_bandwidth, "class_bandwidth", x, p.groups * num_classes * num_classes);
  const MaybeTensor band = dense(bandwidth), class_band = p.by_class ? dense(class_bandwidth) : MaybeTensor();
  Tensor sample = fresh(x, {p.groups});
  Tensor value = fresh(x, {p.groups, p.classes, p.classes});
  Tensor valid = fresh(x, {p.groups, p.classes, p.classes}, ScalarType::Bool);
  Tensor bands = fresh(x, {p.groups, 1 + pairs}, ScalarType::Double);
  Tensor memo = fresh(x, {memo_size(p, keep)});
  if (p.groups > 0)
    by_type(x, [&](auto type) {
      using T = decltype(type);
      const Forward<T> out{data<T>(band), data<T>(class_band), static_cast<T*>(sample.mutable_data_ptr()),
                           static_cast<T*>(value.mutable_data_ptr()), static_cast<bool*>(valid.mutable_data_ptr()),
                           static_cast<double*>(bands.mutable_data_ptr()),
                           memo.numel() > 0 ? static_cast<T*>(memo.mutable_data_ptr()) : nullptr};
      p.dense() ? dense_forward(a.inputs<T>(), out) : stream_forward(a.inputs<T>(), out);
    });
  return {sample, value, valid, bands, memo};
}

std::tuple<Tensor, Tensor> mmd_backward(const Tensor& grad_sample, const Tensor& grad_value, const Tensor& x,
                                        const Tensor& y, const MaybeTensor& wx, const MaybeTensor& wy,
                                        const MaybeTensor& cx, const MaybeTensor& cy, const MaybeTensor& x_labels,
                                        const MaybeTensor& y_labels, const Tensor& bands, const Tensor& memo,
                                        int64_t num_classes, int64_t num_kernels, double multiplier) {
  const Arguments a = arguments(x, y, wx, wy, cx, cy, x_labels, y_labels, num_classes, num_kernels, multiplier);
  const Problem& p = a.p;
  check_mmd_backward(p, grad_sample, grad_value, x, bands, memo, memo_size(p, true));
  const Tensor sample = dense(grad_sample), value = dense(grad_value);
  // Streamed gradients are added up tile by tile; dense ones are written once.
  const bool written = p.dense() && p.groups > 0;
  Tensor grad_x = written ? fresh(x, {p.groups, p.n, p.width}) : torch::stable::new_zeros(x, {p.groups, p.n, p.width});
  Tensor grad_y = written ? fresh(x, {p.targets, p.m, p.width}) : torch::stable::new_zeros(x, {p.targets, p.m, p.width});
  if (p.groups > 0)
    by_type(x, [&](auto type) {
      using T = decltype(type);
      const Backward<T> out{data<T>(sample), data<T>(value), data<double>(bands), memo.numel() > 0 ? data<T>(memo) : nullptr,
                            static_cast<T*>(grad_x.mutable_data_ptr()), static_cast<T*>(grad_y.mutable_data_ptr())};
      p.dense() ? dense_backward(a.inputs<T>(), out) : stream_backward(a.inputs<T>(), out);
    });
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fercore, CPU, m) {
  m.impl("mmd", TORCH_BOX(&mmd));
  m.impl("mmd_backward", TORCH_BOX(&mmd_backward));
}

}  // namespace fercore
