// The vector kernels of the CPU library, behind one table a vector level; the level is chosen at run time.
#pragma once

#include <cstdint>

namespace fercore {

// A mixture of Gaussians: k(d) = sum over m < count of exp(-d * scale * factor[m]), factor[m] = multiplier^m, where scale is
// the inverse of the largest bandwidth. With multiplier 2 each term is the square of the one before: one exponential a pair.
struct Mixture {
  int count;
  bool squares;
  double factor[16];
};

template <class T>
struct Kernels {
  const char* level;
  int64_t width;  // lanes of a vector; leading dimensions are multiples of it, padded with zeros

  // out[i * ldo + j] = a_i . b_j over d columns (a multiple of width); upper: a and b are one, only j >= i is wanted.
  void (*gram)(const T* a, int64_t na, const T* b, int64_t nb, int64_t d, int64_t lda, T* out, int64_t ldo, bool upper);

  // out[m x d] += coef[m x k] b[k x d] with coef(i, j) = coef[i * row_step + j * column_step].
  void (*product)(T* out, int64_t m, int64_t d, const T* coef, int64_t row_step, int64_t column_step, const T* b, int64_t k,
                  int64_t ld);

  // row[j] = |a|^2 + |b_j|^2 - 2 row[j], 0 where that is under rounding noise; row holds products on entry.
  void (*distances)(T* row, T square, const T* squares, int64_t n);

  // sum over j of w[j] k(d[j]).
  double (*row_sum)(const T* d, const T* w, int64_t n, T scale, const Mixture& mixture);

  // out[j] += alpha w[j] sum over m of scale factor[m] exp(-d[j] scale factor[m]); nothing where d[j] is 0. The sums of
  // squares of a pair's derivative: minus dk/dd.
  void (*row_slope)(const T* d, const T* w, int64_t n, T scale, T alpha, const Mixture& mixture, T* out);

  // The same as both above at once; returns the sum.
  double (*row_both)(const T* d, const T* w, int64_t n, T scale, T alpha, const Mixture& mixture, T* out);

  // out[c] = row[c] - centre[c] for c < d, and 0 up to ld.
  void (*centre)(const T* row, const T* centre, T* out, int64_t d, int64_t ld);

  double (*plain_sum)(const T* row, int64_t n);

  // For at most 8 classes: sums [K,K] = p^T q.
  void (*outer)(const T* p, const T* q, int64_t batch, int64_t classes, double* sums);

  // For at most 8 classes: out [B,K] = p times matrix [K,K], or its transpose.
  void (*apply)(const T* p, const double* matrix, bool turned, int64_t batch, int64_t classes, T* out);
  void (*add)(T* out, const T* row, int64_t n);
};

template <class T>
const Kernels<T>& kernels();

// "avx512", "avx2" or "baseline".
const char* vector_level();

namespace baseline {
extern const Kernels<float> f32;
extern const Kernels<double> f64;
}  // namespace baseline
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels<float> f32;
extern const Kernels<double> f64;
}  // namespace avx2
namespace avx512 {
extern const Kernels<float> f32;
extern const Kernels<double> f64;
}  // namespace avx512
#endif

}  // namespace fercore
