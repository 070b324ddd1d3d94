// The Python module inside the CPU library: what is no tensor op.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "native/code_join.h"
#include "native/views.h"

namespace {

using Keys = pybind11::array_t<uint64_t, pybind11::array::c_style>;
template <class T>
using Rows = pybind11::array_t<T, pybind11::array::c_style>;

pybind11::tuple join_codes(const Keys& source, const Keys& target) {
  if (source.ndim() != 1 || target.ndim() != 1) throw pybind11::value_error("keys must be one-dimensional");
  pybind11::array_t<int64_t> order(source.size()), start(target.size()), stop(target.size());
  // Pointers first: without the GIL no object of Python may be touched.
  const uint64_t *s = source.data(), *t = target.data();
  int64_t *to_order = order.mutable_data(), *to_start = start.mutable_data(), *to_stop = stop.mutable_data();
  {
    pybind11::gil_scoped_release release;
    fercore::join_codes(s, source.size(), t, target.size(), to_order, to_start, to_stop);
  }
  return pybind11::make_tuple(order, start, stop);
}

void check_shape(const pybind11::array& array, std::initializer_list<pybind11::ssize_t> shape, const char* name) {
  if (!std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim()))
    throw pybind11::value_error(std::string(name) + " has another shape");
}

// Every array is [B,...] of one batch; `out` is written in place, whatever rows it is a part of.
void make_views(const Rows<uint8_t>& pixels, const Rows<int64_t>& stages, const Rows<float>& factors,
                const Rows<bool>& grey, const Rows<float>& theta, const Rows<float>& mean, const Rows<float>& std,
                pybind11::array_t<float, pybind11::array::c_style>& out) {
  if (pixels.ndim() != 4 || pixels.shape(1) != 3 || pixels.shape(2) != pixels.shape(3))
    throw pybind11::value_error("pixels must be uint8 [B,3,S,S]");
  const int64_t batch = pixels.shape(0), side = pixels.shape(2), size = 3 * side * side;
  check_shape(stages, {batch, 3}, "stages");
  check_shape(factors, {batch, 3}, "factors");
  check_shape(grey, {batch}, "grey");
  check_shape(theta, {batch, 2, 3}, "theta");
  check_shape(mean, {3}, "mean");
  check_shape(std, {3}, "std");
  check_shape(out, {batch, 3, side, side}, "out");
  const uint8_t* from = pixels.data();
  const int64_t* order = stages.data();
  if (std::any_of(order, order + 3 * batch, [](int64_t stage) { return stage < 0 || stage > 2; }))
    throw pybind11::value_error("stages must be 0, 1 or 2");
  const float *f = factors.data(), *t = theta.data(), *m = mean.data(), *s = std.data();
  const bool* g = grey.data();
  float* to = out.mutable_data();
  pybind11::gil_scoped_release release;
  std::vector<float> scratch(fercore::scratch_size(side));
  for (int64_t i = 0; i < batch; ++i)
    fercore::make_view(from + i * size, side, {order + 3 * i, f + 3 * i, g[i], t + 6 * i}, m, s, scratch.data(),
                       to + i * size);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build information of fercore's CPU kernels, the AU-code index, and augmented views.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
#if defined(__clang__)
        info["built_with"] = "clang " __clang_version__;
#else
        info["built_with"] = "gcc " __VERSION__;
#endif
        info["vector_level"] = fercore::vector_level();
#if defined(__x86_64__)
        info["vector_levels"] = pybind11::make_tuple("baseline", "avx2", "avx512");
#else
        info["vector_levels"] = pybind11::make_tuple("baseline");
#endif
        return info;
      },
      "Compiler, the vector levels compiled in, and the one in use.");
  m.def("join_codes", &join_codes, pybind11::arg("source"), pybind11::arg("target"),
        "Source rows sorted by code, then for each target row where its matches among them start and stop.");
  // No argument may be converted: a copy of `out` would be written instead of it.
  m.def("make_views", &make_views, pybind11::arg("pixels").noconvert(), pybind11::arg("stages").noconvert(),
        pybind11::arg("factors").noconvert(), pybind11::arg("grey").noconvert(), pybind11::arg("theta").noconvert(),
        pybind11::arg("mean").noconvert(), pybind11::arg("std").noconvert(), pybind11::arg("out").noconvert(),
        "Writes every sample's view into out: colours, grey, an affine map with bilinear sampling, normalised.");
}
