// The MMD ops on the GPU: three kernels forward, two backward, for all groups together; no host synchronisation.
#include "gemm.cuh"
#include "rows.cuh"

#include <limits>
#include <tuple>

namespace fercore {
namespace {

template <class F>
void by_type(const Tensor& x, const F& f) {
  x.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

void check_rows_fit(const Problem& p) {
  STD_TORCH_CHECK(p.dense(), "the CUDA kernels take at most ", kDenseRows, " rows a group, got ", p.rows());
  STD_TORCH_CHECK(p.classes <= 1024, "the CUDA kernels take at most 1024 classes, got ", p.classes);
}

dim3 row_grid(const Problem& p) {
  return dim3(static_cast<unsigned>((p.rows() + kWarps - 1) / kWarps), static_cast<unsigned>(p.groups));
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Results mmd(const Tensor& x_in, const Tensor& y_in, const MaybeTensor& wx_in, const MaybeTensor& wy_in,
            const MaybeTensor& cx_in, const MaybeTensor& cy_in, const MaybeTensor& x_labels_in,
            const MaybeTensor& y_labels_in, const MaybeTensor& bandwidth, const MaybeTensor& class_bandwidth,
            int64_t num_classes, int64_t num_kernels, double multiplier, bool keep) {
  const Problem p = check_mmd(x_in, y_in, wx_in, wy_in, cx_in, cy_in, x_labels_in, y_labels_in, num_classes, num_kernels,
                              multiplier);
  check_rows_fit(p);
  check_bandwidth(bandwidth, "bandwidth", x_in.scalar_type(), p.groups);
  check_bandwidth(class_bandwidth, "class_bandwidth", x_in.scalar_type(), p.groups * num_classes * num_classes);
  const torch::stable::accelerator::DeviceGuard guard(x_in.get_device_index());
  const cudaStream_t stream = current_stream(x_in);
  const Tensor x = dense(x_in), y = dense(y_in);
  const MaybeTensor wx = dense(wx_in), wy = dense(wy_in), cx = dense(cx_in), cy = dense(cy_in);
  const MaybeTensor x_labels = dense(x_labels_in), y_labels = dense(y_labels_in);
  const MaybeTensor band = dense(bandwidth), class_band = p.by_class ? dense(class_bandwidth) : MaybeTensor();
  const int64_t pairs = p.classes * p.classes;
  Tensor sample = torch::stable::new_zeros(x, {p.groups});
  Tensor value = fresh(x, {p.groups, p.classes, p.classes});
  Tensor valid = fresh(x, {p.groups, p.classes, p.classes}, ScalarType::Bool);
  Tensor bands = fresh(x, {p.groups, 1 + pairs}, ScalarType::Double);
  Tensor memo = torch::stable::new_zeros(x, {keep && p.groups > 0 ? p.kept_distances() : 0});
  if (p.groups == 0) return {sample, value, valid, bands, memo};
  const Tensor distances = keep ? memo : fresh(x, {p.kept_distances()});
  const int64_t part_count = p.groups * p.rows() * row_size(p.classes);
  Tensor parts = fresh(x, {part_count + p.groups}, ScalarType::Double);  // two counters of 4 bytes a group
  double* part = static_cast<double*>(parts.mutable_data_ptr());
  auto* counters = reinterpret_cast<unsigned int*>(part + part_count);
  STD_CUDA_CHECK(cudaMemsetAsync(counters, 0, sizeof(double) * p.groups, stream));
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const Call<T> call = call_of<T>(p, num_kernels, multiplier, x, y, wx, wy, cx, cy, x_labels, y_labels);
    const auto data = [](const MaybeTensor& t) { return t.has_value() ? static_cast<const T*>(t->const_data_ptr()) : nullptr; };
    T* d = static_cast<T*>(distances.mutable_data_ptr());
    const int items = call.groups * group_items(call.n, call.m) + call.targets * target_items(call.m);
    // Without rows there is nothing to measure, but the last block of the passes still writes the outputs.
    if (items > 0) {
      distance_kernel<T><<<items, kThreads, 0, stream>>>(call, 16 * std::numeric_limits<T>::epsilon(), d);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    dim3 grid = row_grid(p);
    grid.x = grid.x > 0 ? grid.x : 1;
    double* band_out = static_cast<double*>(bands.mutable_data_ptr());
    band_kernel<T><<<grid, kThreads, 0, stream>>>(call, d, data(band), data(class_band), part, counters, band_out);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    value_kernel<T><<<grid, kThreads, 2 * p.classes * sizeof(double), stream>>>(
        call, d, band_out, part, counters + p.groups, static_cast<T*>(sample.mutable_data_ptr()),
        static_cast<T*>(value.mutable_data_ptr()), static_cast<bool*>(valid.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {sample, value, valid, bands, memo};
}

std::tuple<Tensor, Tensor> mmd_backward(const Tensor& grad_sample, const Tensor& grad_value, const Tensor& x_in,
                                        const Tensor& y_in, const MaybeTensor& wx_in, const MaybeTensor& wy_in,
                                        const MaybeTensor& cx_in, const MaybeTensor& cy_in, const MaybeTensor& x_labels_in,
                                        const MaybeTensor& y_labels_in, const Tensor& bands, const Tensor& memo,
                                        int64_t num_classes, int64_t num_kernels, double multiplier) {
  const Problem p = check_mmd(x_in, y_in, wx_in, wy_in, cx_in, cy_in, x_labels_in, y_labels_in, num_classes, num_kernels,
                              multiplier);
  check_rows_fit(p);
  const int64_t pairs = p.classes * p.classes;
  STD_TORCH_CHECK(grad_sample.numel() == p.groups, "grad_sample must be [G]");
  STD_TORCH_CHECK(grad_value.numel() == p.groups * pairs, "grad_value must be [G,K,K]");
  STD_TORCH_CHECK(bands.numel() == p.groups * (1 + pairs) && bands.scalar_type() == ScalarType::Double && bands.is_contiguous(),
                  "bands must be those of the forward");
  STD_TORCH_CHECK(memo.numel() == (p.groups > 0 ? p.kept_distances() : 0), "memo must be that of a forward called with keep");
  const torch::stable::accelerator::DeviceGuard guard(x_in.get_device_index());
  const cudaStream_t stream = current_stream(x_in);
  const Tensor x = dense(x_in), y = dense(y_in);
  const MaybeTensor wx = dense(wx_in), wy = dense(wy_in), cx = dense(cx_in), cy = dense(cy_in);
  const MaybeTensor x_labels = dense(x_labels_in), y_labels = dense(y_labels_in);
  const Tensor sample = dense(grad_sample), value = dense(grad_value);
  if (p.groups == 0 || p.rows() == 0 || p.width == 0)
    return {torch::stable::new_zeros(x, {p.groups, p.n, p.width}), torch::stable::new_zeros(x, {p.targets, p.m, p.width})};
  Tensor grad_x = fresh(x, {p.groups, p.n, p.width});
  Tensor grad_y = fresh(x, {p.targets, p.m, p.width});
  Tensor matrices = fresh(x, {p.groups * p.rows() * p.stride()});
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const Call<T> call = call_of<T>(p, num_kernels, multiplier, x, y, wx, wy, cx, cy, x_labels, y_labels);
    const auto data = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    T* matrix = static_cast<T*>(matrices.mutable_data_ptr());
    coefficient_kernel<T><<<row_grid(p), kThreads, 2 * p.classes * sizeof(double), stream>>>(
        call, data(memo), static_cast<const double*>(bands.const_data_ptr()), data(sample), data(value), matrix);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const dim3 grid(tiles_of(call.width), call.groups * tiles_of(call.n) + call.targets * tiles_of(call.m));
    product_kernel<T><<<grid, kThreads, 0, stream>>>(call, matrix, static_cast<T*>(grad_x.mutable_data_ptr()),
                                                     static_cast<T*>(grad_y.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fercore, CUDA, m) {
  m.impl("mmd", TORCH_BOX(&mmd));
  m.impl("mmd_backward", TORCH_BOX(&mmd_backward));
}

}  // namespace fercore
