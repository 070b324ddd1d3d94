// The Python module inside the CPU library: what is no tensor op.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cpu/kernels.h"
#include "native/code_join.h"

namespace {

using Keys = pybind11::array_t<uint64_t, pybind11::array::c_style>;

pybind11::tuple join_codes(const Keys& source, const Keys& target) {
  if (source.ndim() != 1 || target.ndim() != 1) throw pybind11::value_error("keys must be one-dimensional");
  pybind11::array_t<int64_t> order(source.size()), start(target.size()), stop(target.size());
  const uint64_t *s = source.data(), *t = target.data();
  int64_t *to_order = order.mutable_data(), *to_start = start.mutable_data(), *to_stop = stop.mutable_data();
  {
    pybind11::gil_scoped_release release;
    fercore::join_codes(s, source.size(), t, target.size(), to_order, to_start, to_stop);
  }
  return pybind11::make_tuple(order, start, stop);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build information of fercore's CPU kernels, and the AU-code index.";
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
}
