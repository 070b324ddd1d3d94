// The vector kernels, written once with the compilers' vector extensions. Included by kernels_<level>.cpp, each compiled with
// its own machine flags and its own FERCORE_LEVEL and FERCORE_BYTES. Nothing but raw loops here: an inline function of the
// standard library instantiated under -mavx512f could be the copy the linker keeps for everybody.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels.h"

#define FERCORE_INLINE static inline __attribute__((always_inline))

namespace fercore::FERCORE_LEVEL {
namespace {

struct F32 {
  using T = float;
  using N = int32_t;
  typedef float V __attribute__((vector_size(FERCORE_BYTES)));
  typedef int32_t I __attribute__((vector_size(FERCORE_BYTES)));
  typedef float U __attribute__((vector_size(FERCORE_BYTES), aligned(4), may_alias));
  typedef int32_t UI __attribute__((vector_size(FERCORE_BYTES), aligned(4), may_alias));
  typedef float Few __attribute__((vector_size(32), aligned(4), may_alias));
  static constexpr int W = FERCORE_BYTES / 4;
  static constexpr int mantissa = 23;
  // magic = 1.5 * 2^mantissa: adding it rounds to a whole number, which then stands in the lowest bits. lowest:
  // e^lowest is just above the smallest normal number. noise: 16 units of rounding, SNAP of reference.py.
  static constexpr T magic = 12582912.0f, lowest = -87.0f, noise = 16 * 1.1920929e-7f;
  // ln 2 in two parts (Cody and Waite): the first has few digits,
  // so that its products with small whole numbers are exact.
  static constexpr T ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  // Degree of the Taylor polynomial: to rounding for |r| <= ln 2 / 2.
  static constexpr int terms = 7;
};

struct F64 {
  using T = double;
  using N = int64_t;
  typedef double V __attribute__((vector_size(FERCORE_BYTES)));
  typedef int64_t I __attribute__((vector_size(FERCORE_BYTES)));
  typedef double U __attribute__((vector_size(FERCORE_BYTES), aligned(8), may_alias));
  typedef int64_t UI __attribute__((vector_size(FERCORE_BYTES), aligned(8), may_alias));
  typedef double Few __attribute__((vector_size(64), aligned(8), may_alias));
  static constexpr int W = FERCORE_BYTES / 8;
  static constexpr int mantissa = 52;
  static constexpr T magic = 6755399441055744.0, lowest = -708.0, noise = 16 * 2.220446049250313e-16;
  static constexpr T ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr int terms = 13;
};

template <class S>
FERCORE_INLINE typename S::V load(const typename S::T* p) {
  return *reinterpret_cast<const typename S::U*>(p);
}

template <class S>
FERCORE_INLINE void store(typename S::T* p, typename S::V v) {
  *reinterpret_cast<typename S::U*>(p) = v;
}

template <class S>
FERCORE_INLINE typename S::V splat(typename S::T value) {
  return value - typename S::V{};
}

template <class S>
struct Ramp {
  typename S::N value[2 * S::W];
  constexpr Ramp() : value{} {
    for (int i = 0; i < S::W; ++i) value[i] = -1;
  }
};

template <class S>
alignas(64) constexpr Ramp<S> ramp{};

// All ones in the first `count` lanes.
template <class S>
FERCORE_INLINE typename S::I first_lanes(int64_t count) {
  return *reinterpret_cast<const typename S::UI*>(ramp<S>.value + S::W - count);
}

template <class S>
FERCORE_INLINE typename S::V keep(typename S::V v, typename S::I mask) {
  return reinterpret_cast<typename S::V>(reinterpret_cast<typename S::I>(v) & mask);
}

// The first count < W values at p, then zeros, without reading past them.
template <class S>
FERCORE_INLINE typename S::V load_part(const typename S::T* p, int64_t count) {
  alignas(64) typename S::T lanes[S::W] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load<S>(lanes);
}

template <class S>
FERCORE_INLINE void store_part(typename S::T* p, typename S::V v, int64_t count) {
  alignas(64) typename S::T lanes[S::W];
  store<S>(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

// e^x for x <= 0; below the smallest normal number it stays there.
template <class S>
FERCORE_INLINE typename S::V exponential(typename S::V x) {
  using V = typename S::V;
  using I = typename S::I;
  using T = typename S::T;
  constexpr T inverse[] = {1, 1, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                           1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  const V low = splat<S>(S::lowest);
  x = x < low ? low : x;
  const V shifted = x * T(1.4426950408889634) + S::magic;
  const V whole = shifted - S::magic;
  const V r = (x - whole * S::ln2_high) - whole * S::ln2_low;
  V sum = splat<S>(inverse[S::terms]);
#pragma GCC unroll 16
  for (int i = S::terms - 1; i >= 0; --i) sum = sum * r + inverse[i];
  // Times 2^whole: the whole number, moved up to the exponent's place, is added to the exponent of the sum.
  return reinterpret_cast<V>(reinterpret_cast<I>(sum) + (reinterpret_cast<I>(shifted) << S::mantissa));
}

template <class S, std::size_t... Is>
FERCORE_INLINE typename S::V pair_sums(typename S::V a, typename S::V b, std::index_sequence<Is...>) {
  constexpr int W = S::W;
  return __builtin_shufflevector(a, b, (Is % 2 ? W + static_cast<int>(Is) - 1 : static_cast<int>(Is))...) +
         __builtin_shufflevector(a, b, (Is % 2 ? W + static_cast<int>(Is) : static_cast<int>(Is) + 1)...);
}

template <class S, std::size_t... Is>
FERCORE_INLINE typename S::V four_sums(typename S::V p, typename S::V q, std::index_sequence<Is...>) {
  constexpr int W = S::W;
  return __builtin_shufflevector(p, q, (Is % 4 < 2 ? static_cast<int>(Is) : W + static_cast<int>(Is) - 2)...) +
         __builtin_shufflevector(p, q, (Is % 4 < 2 ? static_cast<int>(Is) + 2 : W + static_cast<int>(Is))...);
}

template <class S, int Step, std::size_t... Is>
FERCORE_INLINE typename S::V fold(typename S::V v, std::index_sequence<Is...>) {
  return v + __builtin_shufflevector(v, v, ((static_cast<int>(Is) + Step) % S::W)...);
}

// out[0..3] = the sums of the lanes of a, b, c, d.
template <class S>
FERCORE_INLINE void lane_sums(const typename S::V* v, typename S::T* out) {
  constexpr auto lanes = std::make_index_sequence<S::W>();
  const auto p = pair_sums<S>(v[0], v[1], lanes), q = pair_sums<S>(v[2], v[3], lanes);
  if constexpr (S::W == 2) {
    out[0] = p[0], out[1] = p[1], out[2] = q[0], out[3] = q[1];
  } else {
    auto sums = four_sums<S>(p, q, lanes);
    if constexpr (S::W == 16) sums = fold<S, 8>(sums, lanes);
    if constexpr (S::W >= 8) sums = fold<S, 4>(sums, lanes);
    for (int i = 0; i < 4; ++i) out[i] = sums[i];
  }
}

constexpr int kRows = FERCORE_BYTES == 64 ? 6 : 3;    // rows of a register tile
constexpr int kColumns = 4;                           // its columns: other rows in gram
constexpr int kVectors = FERCORE_BYTES == 64 ? 4 : 3;  // its vectors in product
constexpr int64_t kDepth = 1024;                      // columns of gram in one go: the rows of a tile stay in L1
constexpr int64_t kInner = 64;                        // rows of b of product in one go, likewise

template <class S>
FERCORE_INLINE void gram_tile(const typename S::T* const* a, const typename S::T* const* b, int64_t d,
                              typename S::T (*out)[kColumns]) {
  typename S::V sum[kRows][kColumns] = {};
  for (int64_t k = 0; k < d; k += S::W) {
    typename S::V right[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) right[j] = load<S>(b[j] + k);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const typename S::V left = load<S>(a[i] + k);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) lane_sums<S>(sum[i], out[i]);
}

template <class S>
void gram(const typename S::T* a, int64_t na, const typename S::T* b, int64_t nb, int64_t d, int64_t ld,
          typename S::T* out, int64_t ldo, bool upper) {
  using T = typename S::T;
  for (int64_t k = 0; k == 0 || k < d; k += kDepth) {
    const int64_t depth = d - k < kDepth ? d - k : kDepth;
    for (int64_t i = 0; i < na; i += kRows) {
      const T* left[kRows];
      // Rows beyond the last repeat it and are not written: the inner loops have no branch.
      for (int r = 0; r < kRows; ++r) left[r] = a + (i + r < na ? i + r : na - 1) * ld + k;
      // From the tile that the diagonal passes through.
      for (int64_t j = upper ? i / kColumns * kColumns : 0; j < nb; j += kColumns) {
        const T* right[kColumns];
        for (int c = 0; c < kColumns; ++c) right[c] = b + (j + c < nb ? j + c : nb - 1) * ld + k;
        T tile[kRows][kColumns];
        gram_tile<S>(left, right, depth, tile);
        for (int r = 0; r < kRows && i + r < na; ++r)
          for (int c = 0; c < kColumns && j + c < nb; ++c) {
            T& target = out[(i + r) * ldo + j + c];
            target = k == 0 ? tile[r][c] : target + tile[r][c];
          }
      }
    }
  }
}

template <class S, int Vectors>
FERCORE_INLINE void product_tile(typename S::T* out, int64_t rows, const typename S::T* coef, int64_t row_step,
                                 int64_t column_step, const typename S::T* b, int64_t k, int64_t ld) {
  typename S::V sum[kRows][Vectors] = {};
  const typename S::T* left[kRows];
  for (int i = 0; i < kRows; ++i) left[i] = coef + (i < rows ? i : rows - 1) * row_step;
  for (int64_t p = 0; p < k; ++p) {
    typename S::V right[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) right[v] = load<S>(b + p * ld + v * S::W);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const typename S::T factor = left[i][p * column_step];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[i][v] += factor * right[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    if (i >= rows) break;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      typename S::T* target = out + i * ld + v * S::W;
      store<S>(target, load<S>(target) + sum[i][v]);
    }
  }
}

template <class S>
void product(typename S::T* out, int64_t m, int64_t d, const typename S::T* coef, int64_t row_step, int64_t column_step,
             const typename S::T* b, int64_t k, int64_t ld) {
  constexpr int64_t wide = kVectors * S::W;
  for (int64_t p = 0; p < k; p += kInner) {
    const int64_t depth = k - p < kInner ? k - p : kInner;
    const typename S::T* left = coef + p * column_step;
    const typename S::T* right = b + p * ld;
    int64_t c = 0;
    for (; c + wide <= d; c += wide)
      for (int64_t i = 0; i < m; i += kRows)
        product_tile<S, kVectors>(out + i * ld + c, m - i, left + i * row_step, row_step, column_step, right + c, depth, ld);
    for (; c < d; c += S::W)
      for (int64_t i = 0; i < m; i += kRows)
        product_tile<S, 1>(out + i * ld + c, m - i, left + i * row_step, row_step, column_step, right + c, depth, ld);
  }
}

template <class S>
void distances(typename S::T* row, typename S::T square, const typename S::T* squares, int64_t n) {
  using V = typename S::V;
  const auto step = [&](V products, V others) {
    const V bound = square + others;
    const V distance = bound - (products + products);
    return keep<S>(distance, ~(distance - bound * S::noise <= V{}));  // what is infinite or no number stays
  };
  int64_t j = 0;
  for (; j + S::W <= n; j += S::W) store<S>(row + j, step(load<S>(row + j), load<S>(squares + j)));
  if (j < n) store_part<S>(row + j, step(load_part<S>(row + j, n - j), load_part<S>(squares + j, n - j)), n - j);
}

// Sums of the mixture's terms (Sum) and of terms times factors (Slope) at distance d.
template <class S, bool Sum, bool Slope>
FERCORE_INLINE void mixture_terms(typename S::V d, typename S::T scale, const Mixture& mixture, typename S::V& sum,
                                  typename S::V& slope) {
  using T = typename S::T;
  if (mixture.squares) {
    typename S::V power = exponential<S>(d * -scale);
    sum = slope = power;
    T factor = 1;
    for (int m = 1; m < mixture.count; ++m) {
      power *= power;
      factor += factor;
      if (Sum) sum += power;
      if (Slope) slope += factor * power;
    }
    return;
  }
  sum = slope = typename S::V{};
  for (int m = 0; m < mixture.count; ++m) {
    const T factor = static_cast<T>(mixture.factor[m]);
    const typename S::V power = exponential<S>(d * (-scale * factor));
    if (Sum) sum += power;
    if (Slope) slope += factor * power;
  }
}

template <class S>
FERCORE_INLINE double total(typename S::V v) {
  double sum = 0;
  for (int i = 0; i < S::W; ++i) sum += v[i];
  return sum;
}

template <class S, bool Sum, bool Slope>
FERCORE_INLINE double row_pass(const typename S::T* d, const typename S::T* w, int64_t n, typename S::T scale,
                               typename S::T alpha, const Mixture& mixture, typename S::T* out) {
  using V = typename S::V;
  V sums{};
  int64_t j = 0;
  const auto step = [&](V distance, V weight, V& slope) {
    V sum;
    mixture_terms<S, Sum, Slope>(distance, scale, mixture, sum, slope);
    if (Sum) sums += weight * sum;
    if (Slope) slope = keep<S>(slope * weight, ~(distance <= V{})) * (alpha * scale);
  };
  for (; j + S::W <= n; j += S::W) {
    V slope;
    step(load<S>(d + j), load<S>(w + j), slope);
    if (Slope) store<S>(out + j, load<S>(out + j) + slope);
  }
  if (j < n) {
    // Rows of d and w are followed by at least a vector of readable numbers: read whole, keep the part.
    const typename S::I part = first_lanes<S>(n - j);
    V slope;
    step(keep<S>(load<S>(d + j), part), keep<S>(load<S>(w + j), part), slope);
    if (Slope) store<S>(out + j, load<S>(out + j) + slope);
  }
  return Sum ? total<S>(sums) : 0.0;
}

template <class S>
double row_sum(const typename S::T* d, const typename S::T* w, int64_t n, typename S::T scale, const Mixture& mixture) {
  return row_pass<S, true, false>(d, w, n, scale, 0, mixture, nullptr);
}

template <class S>
void row_slope(const typename S::T* d, const typename S::T* w, int64_t n, typename S::T scale, typename S::T alpha,
               const Mixture& mixture, typename S::T* out) {
  row_pass<S, false, true>(d, w, n, scale, alpha, mixture, out);
}

template <class S>
double row_both(const typename S::T* d, const typename S::T* w, int64_t n, typename S::T scale, typename S::T alpha,
                const Mixture& mixture, typename S::T* out) {
  return row_pass<S, true, true>(d, w, n, scale, alpha, mixture, out);
}

template <class S>
void centre(const typename S::T* row, const typename S::T* middle, typename S::T* out, int64_t d, int64_t ld) {
  int64_t c = 0;
  for (; c + S::W <= d; c += S::W) store<S>(out + c, load<S>(row + c) - load<S>(middle + c));
  for (; c < d; ++c) out[c] = row[c] - middle[c];
  for (; c < ld; ++c) out[c] = 0;
}

template <class S>
double plain_sum(const typename S::T* row, int64_t n) {
  typename S::V sums{};
  int64_t j = 0;
  for (; j + S::W <= n; j += S::W) sums += load<S>(row + j);
  double sum = total<S>(sums);
  for (; j < n; ++j) sum += row[j];
  return sum;
}

template <class S>
void add(typename S::T* out, const typename S::T* row, int64_t n) {
  int64_t j = 0;
  for (; j + S::W <= n; j += S::W) store<S>(out + j, load<S>(out + j) + load<S>(row + j));
  for (; j < n; ++j) out[j] += row[j];
}

// Eight numbers whatever the level: the compiler splits what is wider than the machine.
typedef double Eight __attribute__((vector_size(64)));

template <class S>
using FewOf = typename S::Few;

template <class S>
FERCORE_INLINE Eight load_eight(const typename S::T* p, int64_t count) {
  if (count >= 8) return __builtin_convertvector(*reinterpret_cast<const FewOf<S>*>(p), Eight);
  Eight out{};
  for (int64_t i = 0; i < count; ++i) out[i] = p[i];
  return out;
}

// Rows of at most 8 numbers are read as 8 (what is too much belongs to the next row), the last ones by count.
template <class S, int C>
void outer_of(const typename S::T* p, const typename S::T* q, int64_t batch, double* sums) {
  Eight sum[C] = {};
  for (int64_t b = 0; b < batch; ++b) {
    const Eight right = load_eight<S>(q + b * C, (batch - b) * C);
#pragma GCC unroll 8
    for (int k = 0; k < C; ++k) sum[k] += static_cast<double>(p[b * C + k]) * right;
  }
  for (int k = 0; k < C; ++k)
    for (int l = 0; l < C; ++l) sums[k * C + l] = sum[k][l];
}

template <class S, int C>
void apply_of(const typename S::T* p, const double* matrix, bool turned, int64_t batch, typename S::T* out) {
  using T = typename S::T;
  typedef T Row __attribute__((vector_size(8 * sizeof(T))));
  Row rows[C] = {};
  for (int k = 0; k < C; ++k)
    for (int l = 0; l < C; ++l) rows[k][l] = static_cast<T>(matrix[turned ? l * C + k : k * C + l]);
  for (int64_t b = 0; b < batch; ++b) {
    Row sum{};
#pragma GCC unroll 8
    for (int k = 0; k < C; ++k) sum += p[b * C + k] * rows[k];
    // Eight at once where they fit: the next row overwrites what is too much.
    T* target = out + b * C;
    if ((batch - b) * C >= 8)
      *reinterpret_cast<FewOf<S>*>(target) = sum;
    else
      for (int64_t l = 0; l < C; ++l) target[l] = sum[l];
  }
}

// Calls f with the number of classes, 1 to 8, known to the compiler.
template <class F>
FERCORE_INLINE void with_classes(int64_t classes, const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (void)((classes == I + 1 ? (f(std::integral_constant<int, I + 1>{}), true) : false) || ...);
  }(std::make_integer_sequence<int, 8>{});
}

template <class S>
void outer(const typename S::T* p, const typename S::T* q, int64_t batch, int64_t classes, double* sums) {
  with_classes(classes, [&](auto c) { outer_of<S, c()>(p, q, batch, sums); });
}

template <class S>
void apply(const typename S::T* p, const double* matrix, bool turned, int64_t batch, int64_t classes, typename S::T* out) {
  with_classes(classes, [&](auto c) { apply_of<S, c()>(p, matrix, turned, batch, out); });
}

#define FERCORE_TEXT(x) #x
#define FERCORE_NAME(x) FERCORE_TEXT(x)

template <class S>
constexpr Kernels<typename S::T> table() {
  return {FERCORE_NAME(FERCORE_LEVEL), S::W, gram<S>, product<S>, distances<S>, row_sum<S>, row_slope<S>, row_both<S>,
          centre<S>, plain_sum<S>, outer<S>, apply<S>, add<S>};
}

}  // namespace

extern const Kernels<float> f32 = table<F32>();
extern const Kernels<double> f64 = table<F64>();

}  // namespace fercore::FERCORE_LEVEL
