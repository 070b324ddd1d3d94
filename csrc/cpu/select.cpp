// Chooses the vector level once: the widest that the processor has, or a narrower one named in FERCORE_VECTOR.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace fercore {
namespace {

bool allowed(const char* level) {
  const char* wanted = std::getenv("FERCORE_VECTOR");
  return wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, level) == 0;
}

struct Choice {
  const Kernels<float>* f32;
  const Kernels<double>* f64;
};

Choice choose() {
  const char* wanted = std::getenv("FERCORE_VECTOR");
  if (wanted != nullptr && *wanted != '\0' && std::strcmp(wanted, "baseline") != 0 && std::strcmp(wanted, "avx2") != 0 &&
      std::strcmp(wanted, "avx512") != 0)
    std::fprintf(stderr, "fercore: FERCORE_VECTOR=%s is none of baseline, avx2, avx512; baseline is used\n", wanted);
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  // FERCORE_VECTOR only narrows: a level the processor lacks is never entered.
  if (has_avx512 && allowed("avx512")) return {&avx512::f32, &avx512::f64};
  if (has_avx2 && allowed("avx2")) return {&avx2::f32, &avx2::f64};
#endif
  return {&baseline::f32, &baseline::f64};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return *choice().f32;
}

template <>
const Kernels<double>& kernels<double>() {
  return *choice().f64;
}

const char* vector_level() { return choice().f32->level; }

}  // namespace fercore
