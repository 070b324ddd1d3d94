// The Python module inside the CPU library: what is no tensor op.
#include <pybind11/pybind11.h>

#include "cpu/kernels.h"

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build information of fercore's CPU kernels.";
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
}
