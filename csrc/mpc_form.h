// The maths of mutual prediction consistency on a K x K matrix C = p^T q, shared by the CPU and CUDA twins.
#pragma once

#include "check.h"

#if defined(__CUDACC__)
#define FERCORE_BOTH __host__ __device__ inline
#else
#define FERCORE_BOTH inline
#endif

namespace fercore {

// A row sum nearer to 0 than the smallest bandwidth counts as that, with its sign.
FERCORE_BOTH double mpc_clamp(double sum) { return sum >= 1e-12 || sum <= -1e-12 ? sum : sum < 0 ? -1e-12 : 1e-12; }

// Sums of rows and columns, as they are.
FERCORE_BOTH void mpc_sums(const double* joint, int64_t classes, double* row, double* column) {
  for (int64_t k = 0; k < classes; ++k) {
    row[k] = column[k] = 0;
    for (int64_t l = 0; l < classes; ++l) {
      row[k] += joint[k * classes + l];
      column[k] += joint[l * classes + k];
    }
  }
}

// One ratio's share of the value: |R - I|, or R off the diagonal.
FERCORE_BOTH double mpc_share(double ratio, bool diagonal, bool offdiag) {
  if (offdiag) return diagonal ? 0.0 : ratio;
  const double deviation = diagonal ? ratio - 1 : ratio;
  return deviation < 0 ? -deviation : deviation;
}

// The derivative of the share.
FERCORE_BOTH double mpc_share_slope(double ratio, bool diagonal, bool offdiag) {
  if (offdiag) return diagonal ? 0.0 : 1.0;
  const double deviation = diagonal ? ratio - 1 : ratio;
  return deviation > 0 ? 1.0 : deviation < 0 ? -1.0 : 0.0;
}

// Both ratios of one entry: by its row in R, by its column in R'.
FERCORE_BOTH double mpc_entry(double entry, bool diagonal, double row, double column, bool offdiag) {
  return mpc_share(entry / mpc_clamp(row), diagonal, offdiag) + mpc_share(entry / mpc_clamp(column), diagonal, offdiag);
}

// What the sums of row or column k take back: sum over its entries of slope * ratio / sum, 0 where the sum is clamped.
FERCORE_BOTH double mpc_pull(const double* joint, int64_t classes, int64_t k, bool by_row, double sum, bool offdiag) {
  if (mpc_clamp(sum) != sum) return 0;
  const double inverse = 1 / sum;
  double pull = 0;
  for (int64_t l = 0; l < classes; ++l) {
    const double ratio = joint[by_row ? k * classes + l : l * classes + k] * inverse;
    pull += mpc_share_slope(ratio, k == l, offdiag) * ratio;
  }
  return pull * inverse;
}

// d value / d C times factor.
FERCORE_BOTH void mpc_slopes(const double* joint, int64_t classes, const double* row, const double* column, bool offdiag,
                             double factor, double* slope) {
  for (int64_t i = 0; i < classes * classes; ++i) slope[i] = 0;
  for (int64_t k = 0; k < classes; ++k) {
    const double pull_row = mpc_pull(joint, classes, k, true, row[k], offdiag);
    const double pull_column = mpc_pull(joint, classes, k, false, column[k], offdiag);
    const double inverse_row = 1 / mpc_clamp(row[k]), inverse_column = 1 / mpc_clamp(column[k]);
    for (int64_t l = 0; l < classes; ++l) {
      const double by_row = joint[k * classes + l] * inverse_row, by_column = joint[l * classes + k] * inverse_column;
      slope[k * classes + l] += factor * (mpc_share_slope(by_row, k == l, offdiag) * inverse_row - pull_row);
      slope[l * classes + k] += factor * (mpc_share_slope(by_column, k == l, offdiag) * inverse_column - pull_column);
    }
  }
}

}  // namespace fercore
