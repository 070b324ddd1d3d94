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

// Both ratios of one entry: by its row in R, by its column in R'. The inverses are those of the clamped sums.
FERCORE_BOTH double mpc_entry(double entry, bool diagonal, double inverse_row, double inverse_column, bool offdiag) {
  return mpc_share(entry * inverse_row, diagonal, offdiag) + mpc_share(entry * inverse_column, diagonal, offdiag);
}

// What the sums of row or column k take back: sum over its entries of slope * ratio / sum, 0 where the sum is clamped.
FERCORE_BOTH double mpc_pull(const double* joint, int64_t classes, int64_t k, bool by_row, double sum, double inverse,
                             bool offdiag) {
  if (mpc_clamp(sum) != sum) return 0;
  double pull = 0;
  for (int64_t l = 0; l < classes; ++l) {
    const double ratio = joint[by_row ? k * classes + l : l * classes + k] * inverse;
    pull += mpc_share_slope(ratio, k == l, offdiag) * ratio;
  }
  return pull * inverse;
}

// The derivative of the value by one entry, times 2K.
FERCORE_BOTH double mpc_slope(double entry, bool diagonal, double inverse_row, double inverse_column, double pull_row,
                              double pull_column, bool offdiag) {
  return mpc_share_slope(entry * inverse_row, diagonal, offdiag) * inverse_row - pull_row +
         mpc_share_slope(entry * inverse_column, diagonal, offdiag) * inverse_column - pull_column;
}

}  // namespace fercore
