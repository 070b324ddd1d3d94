// The MMD ops on the GPU, for all groups together: three kernels forward, two backward where the distances are kept, one where
// they are streamed; no host synchronisation.
#include "stream.cuh"

#include <limits>
#include <tuple>

namespace fercore {
namespace {

template <class F>
void by_type(const Tensor& x, const F& f) {
  x.scalar_type() == ScalarType::Float ? f(float{}) : f(double{});
}

// Sizes that the launches and the kernels' int indices can take.
void check_sizes(const Problem& p) {
  constexpr int64_t most = 65535;  // blocks in the grid's second and third dimension
  const int64_t tiles = p.groups * tiles_of(p.n) + p.targets * tiles_of(p.m);
  STD_TORCH_CHECK(p.classes <= 1024, "the CUDA kernels take at most 1024 classes, got ", p.classes);
  STD_TORCH_CHECK(p.groups <= most, "the CUDA kernels take at most ", most, " groups, got ", p.groups);
  STD_TORCH_CHECK(!p.dense() || tiles <= most, "the CUDA kernels take at most ", most, " tiles of 64 rows, got ", tiles);
  STD_TORCH_CHECK(p.rows() < (1 << 30) && p.width < (1 << 30), "the CUDA kernels take at most 2^30 rows and columns");
}

dim3 row_grid(const Problem& p) {
  return dim3(static_cast<unsigned>((p.rows() + kWarps - 1) / kWarps), static_cast<unsigned>(p.groups));
}

// Below this share of the rows' squares a distance is what rounding makes.
template <class T>
constexpr T kNoise = 16 * std::numeric_limits<T>::epsilon();

template <class T>
struct Outputs {
  T *sample, *value;
  bool* valid;
  double* bands;
};

// Bytes of shared memory for the masses of the classes.
template <class T>
size_t mass_bytes(const Call<T>& call) {
  return 2 * call.classes * sizeof(double);
}

// The passes over kept distances d.
template <class T>
void dense_forward(const Device& device, const Call<T>& call, dim3 grid, const T* band, const T* class_band, T* d, double* parts,
                   unsigned int* counters, const Outputs<T>& out) {
  const int items = call.groups * group_items(call.n, call.m) + call.targets * target_items(call.m);
  // Without rows there is nothing to measure, but the last block of the passes still writes the outputs.
  if (items > 0) launch(device, distance_kernel<T>, dim3(items), 0, call, kNoise<T>, d);
  grid.x = grid.x > 0 ? grid.x : 1;
  launch(device, band_kernel<T>, grid, 0, call, d, band, class_band, parts, counters, out.bands);
  launch(device, value_kernel<T>, grid, mass_bytes(call), call, d, out.bands, parts, counters + call.groups, out.sample,
         out.value, out.valid);
}

template <class T>
void stream_forward(const Device& device, const Call<T>& call, const T* band, const T* class_band, double* sums, double* parts,
                    unsigned int* counters, const Outputs<T>& out) {
  const Moments moments{call.classes, call.width, sums};
  const dim3 pieces((call.width + kThreads - 1) / kThreads, moments.slots(), call.groups);
  if (call.width > 0) launch(device, moment_kernel<T>, pieces, 0, call, moments);
  launch(device, stream_band_kernel<T>, dim3(call.groups), 0, call, moments, band, class_band, out.bands);
  launch(device, stream_value_kernel<T>, dim3(tiles_of(call.n) + tiles_of(call.m), call.groups), mass_bytes(call), call,
         kNoise<T>, out.bands, parts, counters, out.sample, out.value, out.valid);
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Results mmd(const Tensor& x_in, const Tensor& y_in, const MaybeTensor& wx_in, const MaybeTensor& wy_in,
            const MaybeTensor& cx_in, const MaybeTensor& cy_in, const MaybeTensor& x_labels_in,
            const MaybeTensor& y_labels_in, const MaybeTensor& bandwidth, const MaybeTensor& class_bandwidth,
            int64_t num_classes, int64_t num_kernels, double multiplier, bool keep) {
  const Problem p = check_mmd(x_in, y_in, wx_in, wy_in, cx_in, cy_in, x_labels_in, y_labels_in, num_classes, num_kernels,
                              multiplier);
  check_sizes(p);
  check_bandwidth(bandwidth, "bandwidth", x_in, p.groups);
  check_bandwidth(class_bandwidth, "class_bandwidth", x_in, p.groups * num_classes * num_classes);
  const Device device(x_in);
  const Tensor x = dense(x_in), y = dense(y_in);
  const MaybeTensor wx = dense(wx_in), wy = dense(wy_in), cx = dense(cx_in), cy = dense(cy_in);
  const MaybeTensor x_labels = dense(x_labels_in), y_labels = dense(y_labels_in);
  const MaybeTensor band = dense(bandwidth), class_band = p.by_class ? dense(class_bandwidth) : MaybeTensor();
  const int64_t pairs = p.classes * p.classes, kept = p.dense() && p.groups > 0 ? p.kept_distances() : 0;
  Tensor sample = fresh(x, {p.groups});
  Tensor value = fresh(x, {p.groups, p.classes, p.classes});
  Tensor valid = fresh(x, {p.groups, p.classes, p.classes}, ScalarType::Bool);
  Tensor bands = fresh(x, {p.groups, 1 + pairs}, ScalarType::Double);
  Tensor memo = fresh(x, {keep ? kept : 0});
  if (p.groups == 0) return {sample, value, valid, bands, memo};
  const Tensor distances = keep ? memo : fresh(x, {kept});
  const int64_t part_count = p.groups * p.rows() * row_size(p.classes);
  const int64_t moment_count = p.dense() ? 0 : p.groups * 4 * (p.classes + 1) * p.width;
  // Two counters of 4 bytes a group follow.
  Tensor room = fresh(x, {moment_count + part_count + p.groups}, ScalarType::Double);
  double* moments = static_cast<double*>(room.mutable_data_ptr());
  double* parts = moments + moment_count;
  auto* counters = reinterpret_cast<unsigned int*>(parts + part_count);
  device.zero(counters, sizeof(double) * p.groups);
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const Call<T> call = call_of<T>(p, num_kernels, multiplier, x, y, wx, wy, cx, cy, x_labels, y_labels);
    const auto data = [](const MaybeTensor& t) { return t.has_value() ? static_cast<const T*>(t->const_data_ptr()) : nullptr; };
    const Outputs<T> out{static_cast<T*>(sample.mutable_data_ptr()), static_cast<T*>(value.mutable_data_ptr()),
                         static_cast<bool*>(valid.mutable_data_ptr()), static_cast<double*>(bands.mutable_data_ptr())};
    if (p.dense())
      dense_forward(device, call, row_grid(p), data(band), data(class_band), static_cast<T*>(distances.mutable_data_ptr()), parts,
                    counters, out);
    else
      stream_forward(device, call, data(band), data(class_band), moments, parts, counters, out);
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
  check_sizes(p);
  check_mmd_backward(p, grad_sample, grad_value, x_in, bands, memo, p.dense() && p.groups > 0 ? p.kept_distances() : 0);
  const Device device(x_in);
  const Tensor x = dense(x_in), y = dense(y_in);
  const MaybeTensor wx = dense(wx_in), wy = dense(wy_in), cx = dense(cx_in), cy = dense(cy_in);
  const MaybeTensor x_labels = dense(x_labels_in), y_labels = dense(y_labels_in);
  const Tensor sample = dense(grad_sample), value = dense(grad_value);
  if (p.groups == 0 || p.rows() == 0 || p.width == 0)
    return {torch::stable::new_zeros(x, {p.groups, p.n, p.width}), torch::stable::new_zeros(x, {p.targets, p.m, p.width})};
  const bool streamed = !p.dense();
  Tensor grad_x = streamed ? torch::stable::new_zeros(x, {p.groups, p.n, p.width}) : fresh(x, {p.groups, p.n, p.width});
  Tensor grad_y = streamed ? torch::stable::new_zeros(x, {p.targets, p.m, p.width}) : fresh(x, {p.targets, p.m, p.width});
  const Tensor matrices = fresh(x, {streamed ? 0 : p.groups * p.rows() * p.stride()});
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const Call<T> call = call_of<T>(p, num_kernels, multiplier, x, y, wx, wy, cx, cy, x_labels, y_labels);
    const auto data = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    const auto* band = static_cast<const double*>(bands.const_data_ptr());
    T* out_x = static_cast<T*>(grad_x.mutable_data_ptr());
    T* out_y = static_cast<T*>(grad_y.mutable_data_ptr());
    const unsigned row_tiles = call.groups * tiles_of(call.n) + call.targets * tiles_of(call.m);
    if (streamed) {
      launch(device, stream_gradient_kernel<T>, dim3(row_tiles), mass_bytes(call), call, kNoise<T>, band, data(sample),
             data(value), out_x, out_y);
      return;
    }
    T* matrix = static_cast<T*>(matrices.mutable_data_ptr());
    launch(device, coefficient_kernel<T>, row_grid(p), mass_bytes(call), call, data(memo), band, data(sample), data(value), matrix);
    launch(device, product_kernel<T>, dim3(tiles_of(call.width), row_tiles), 0, call, matrix, out_x, out_y);
  });
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fercore, CUDA, m) {
  m.impl("mmd", TORCH_BOX(&mmd));
  m.impl("mmd_backward", TORCH_BOX(&mmd_backward));
}

}  // namespace fercore
