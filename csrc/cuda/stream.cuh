// Groups too large to keep their distances: a block owns a tile of rows and passes over all others, tile by tile. Memory O(N K)
// beside the inputs and gradients; every tile of distances is computed from both of its sides, so that blocks share no output.
#pragma once

#include "gemm.cuh"
#include "rows.cuh"

namespace fercore {

// Sums over rows by side and class (the last slot of a side: no class) of centred features and of their squares.
struct Moments {
  int classes, width;
  double* sums;  // [G, 2 (K+1), 2, D]

  __host__ __device__ int slots() const { return 2 * (classes + 1); }
  __host__ __device__ int64_t group_size() const { return static_cast<int64_t>(slots()) * 2 * width; }
  __device__ double* of(int g, int slot, int power) const {
    return sums + g * group_size() + (static_cast<int64_t>(slot) * 2 + power - 1) * width;
  }
};

// blockIdx: a piece of the columns, a slot, a group.
template <class T>
__global__ void __launch_bounds__(kThreads) moment_kernel(const Call<T> call, Moments moments) {
  const int g = blockIdx.z, slot = blockIdx.y, column = blockIdx.x * kThreads + threadIdx.x;
  if (column >= call.width) return;
  const bool of_x = slot <= call.classes;
  const int place = of_x ? slot : slot - call.classes - 1, own = place < call.classes ? place : -1;
  const T middle = call.middle(g, column);
  double sum = 0, square = 0;
  for (int i = of_x ? 0 : call.n; i < (of_x ? call.n : call.rows()); ++i) {
    if (call.label(g, i) != own) continue;
    const double value = call.row(g, i)[column] - middle;
    sum += value;
    square += value * value;
  }
  moments.of(g, slot, 1)[column] = sum;
  moments.of(g, slot, 2)[column] = square;
}

// The mean squared distance of `count` rows in slots [first, last) and [other, other + 1 or none): 2 n sum|u|^2 - 2 |sum u|^2
// over their pairs. One warp.
template <class T>
__device__ inline double mean_distance(const Call<T>& call, const Moments& moments, int g, int first, int last, int other,
                                       double count) {
  double squares = 0, length = 0;
  for (int c = threadIdx.x % kWarp; c < call.width; c += kWarp) {
    double sum = 0;
    for (int slot = first; slot < last; ++slot) {
      sum += moments.of(g, slot, 1)[c];
      squares += moments.of(g, slot, 2)[c];
    }
    if (other >= 0) {
      sum += moments.of(g, other, 1)[c];
      squares += moments.of(g, other, 2)[c];
    }
    length += sum * sum;
  }
  squares = warp_sum(squares);
  length = warp_sum(length);
  return count > 1 ? (2 * count * squares - 2 * length) / (count * (count - 1)) : 0.0;
}

// Moments -> bands [G, 1 + K*K], a block a group.
template <class T>
__global__ void __launch_bounds__(kThreads)
    stream_band_kernel(const Call<T> call, Moments moments, const T* given, const T* given_pairs, double* bands) {
  const int g = blockIdx.x, lane = threadIdx.x % kWarp, rows = call.rows(), classes = call.classes;
  for (int item = threadIdx.x / kWarp; item < 1 + classes * classes; item += kWarps) {
    double band;
    if (item == 0) {
      band = given != nullptr ? given[g] : mean_distance(call, moments, g, 0, moments.slots(), -1, rows);
    } else if (given_pairs != nullptr) {
      band = given_pairs[static_cast<int64_t>(g) * classes * classes + item - 1];
    } else {
      const int k = (item - 1) / classes, l = (item - 1) % classes;
      const double count = count_rows(call, g, 0, call.n, k) + count_rows(call, g, call.n, rows, l);
      band = mean_distance(call, moments, g, k, k + 1, classes + 1 + l, count);
    }
    if (lane == 0) bands[static_cast<int64_t>(g) * (1 + classes * classes) + item] = band < kMinBandwidth ? kMinBandwidth : band;
  }
}

// The sum over the sixteen threads that share a tile's rows.
__device__ inline double half_sum(double value) {
  for (int step = kWarp / 4; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// One of a tile's columns as the class level sees it.
template <class T>
struct Column {
  int label;
  T share;
};

// Adds one tile of distances to the parts of the rows of `a` (see value_kernel).
template <class T>
__device__ inline void add_tile(const Call<T>& call, int g, Span a, Span b, const T (&distance)[kPart][kPart],
                                const double* bands, const double* mass, double* parts) {
  const int row = a.from + threadIdx.x / 16, column = b.from + threadIdx.x % 16, classes = call.classes;
  const bool a_of_x = a.from < call.n, one_side = a_of_x == (b.from < call.n), first = threadIdx.x % 16 == 0;
  const T sample_scale = call.scale(bands[0]);
  Column<T> columns[kPart];
  for (int j = 0; j < kPart; ++j) {
    const int c = column + 16 * j, label = c < b.end ? call.label(g, c) : -1;
    columns[j] = {label, label >= 0 ? call.share(g, c, label, mass) : T(0)};
  }
  for (int i = 0; i < kPart; ++i) {
    const int r = row + 16 * i;
    const bool inside = r < a.end;
    double* part = parts + r * row_size(classes);
    T kernel, slope;
    if (call.sample) {
      double total = 0;
      for (int j = 0; j < kPart; ++j) {
        if (!inside || column + 16 * j >= b.end) continue;
        mixture(call.family, distance[i][j], sample_scale, kernel, slope);
        total += static_cast<double>(call.omega(g, column + 16 * j)) * kernel;
      }
      total = half_sum(total);
      if (first && inside) part[0] += call.omega(g, r) * total;
    }
    if (classes == 0 || (!one_side && !a_of_x)) continue;  // pairs across are summed from x's side
    const int own = inside ? call.label(g, r) : -1;
    const double share = own >= 0 ? call.share(g, r, own, mass) : T(0);
    for (int c = 0; c < classes; ++c) {
      double total = 0;
      const T scale = own >= 0 ? call.scale(bands[1 + (a_of_x ? own * classes + c : c * classes + own)]) : T(0);
      for (int j = 0; j < kPart; ++j) {
        if (own < 0 || columns[j].label != (one_side ? own : c)) continue;
        mixture(call.family, distance[i][j], scale, kernel, slope);
        total += static_cast<double>(columns[j].share) * kernel;
      }
      total = half_sum(total);
      if (first && own >= 0) part[1 + (one_side ? 0 : classes) + c] += share * total;
    }
  }
}

// Calls f with every tile of the rows of x, then of y.
template <class F>
__device__ inline void each_tile(int n, int rows, const F& f) {
  for (int tile = 0; tile < tiles_of(n); ++tile) f(span_of(tile, 0, n));
  for (int tile = 0; tile < tiles_of(rows - n); ++tile) f(span_of(tile, n, rows));
}

// blockIdx: a tile of rows (x's first), a group.
template <class T>
__global__ void __launch_bounds__(kThreads)
    stream_value_kernel(const Call<T> call, T noise, const double* bands, double* parts, unsigned int* counters, T* sample,
                        T* value, bool* valid) {
  __shared__ Tiles<T> tiles;
  __shared__ T squares[2 * kTile];
  double* mass = dynamic_shared();
  const int g = blockIdx.y, item = blockIdx.x, x_tiles = tiles_of(call.n);
  parts += static_cast<int64_t>(g) * call.rows() * row_size(call.classes);
  bands += static_cast<int64_t>(g) * (1 + call.classes * call.classes);
  call.masses(g, mass);
  const Span a = item < x_tiles ? span_of(item, 0, call.n) : span_of(item - x_tiles, call.n, call.rows());
  for (int64_t p = a.from * row_size(call.classes) + threadIdx.x; p < a.end * row_size(call.classes); p += kThreads) parts[p] = 0;
  each_tile(call.n, call.rows(), [&](Span b) {
    T distance[kPart][kPart];
    tile_distances(call, g, a, b, noise, tiles, squares, distance);
    add_tile(call, g, a, b, distance, bands, mass, parts);
  });
  if (last_block(counters + g, gridDim.x)) add_up(call, g, parts, mass, sample, value, valid);
}

// Distances -> coefficients in place, added to the row sums of this thread's rows.
template <class T>
__device__ inline void tile_slopes(const Call<T>& call, int g, Span a, Span b, const double* bands, const T* grad_sample,
                                   const T* grad_value, const double* mass, T (&tile)[kPart][kPart], double (&totals)[kPart]) {
  const T scale = call.scale(bands[0]);
  for (int i = 0; i < kPart; ++i) {
    const int r = a.from + threadIdx.x / 16 + 16 * i;
    const int own = r < a.end ? call.label(g, r) : -1;
    const T outer = r < a.end ? sample_outer(call, g, r, grad_sample, scale) : T(0);
    for (int j = 0; j < kPart; ++j) {
      const int c = b.from + threadIdx.x % 16 + 16 * j;
      const T d = tile[i][j];  // 0 outside
      T slope = 0;
      if (!(d <= 0)) {
        slope = sample_slope(call, g, c, outer, scale, d);
        if (own >= 0) slope += class_slope(call, g, r, c, own, grad_value, bands, mass, d);
      }
      tile[i][j] = slope;
      totals[i] += slope;
    }
  }
}

// out[a's rows] += coefficients times the centred rows of `b`; `out` starts at row a.from.
template <class T>
__device__ inline void add_product(const Call<T>& call, int g, Span a, Span b, const T (&slope)[kPart][kPart], Tiles<T>& tiles,
                                   T* out) {
  const int row = threadIdx.x / 16, column = threadIdx.x % 16, lane = threadIdx.x % kTile;
  for (int from = 0; from < call.width; from += kTile) {
    T sum[kPart][kPart] = {};
    const int c = from + lane;
    const T middle = c < call.width ? call.middle(g, c) : T(0);
    for (int slab = 0; slab < kPart; ++slab) {  // the columns 16 slab to 16 slab + 15 of the tile
      __syncthreads();
      for (int i = 0; i < kPart; ++i) tiles.left[column][row + 16 * i] = slope[i][slab];
      for (int r = threadIdx.x / kTile; r < kDepth; r += kThreads / kTile) {
        const int j = b.from + 16 * slab + r;
        tiles.right[r][lane] = j < b.end && c < call.width ? call.row(g, j)[c] - middle : T(0);
      }
      __syncthreads();
      multiply(tiles, sum);
    }
    for (int i = 0; i < kPart; ++i)
      for (int j = 0; j < kPart; ++j) {
        const int r = row + 16 * i, c = from + column + 16 * j;
        if (a.from + r < a.end && c < call.width) out[static_cast<int64_t>(r) * call.width + c] += sum[i][j];
      }
  }
}

// Gradients, which start at 0. blockIdx.x counts the row tiles of x of every group, then of y of every target.
template <class T>
__global__ void __launch_bounds__(kThreads)
    stream_gradient_kernel(const Call<T> call, T noise, const double* bands, const T* grad_sample, const T* grad_value,
                           T* grad_x, T* grad_y) {
  __shared__ Tiles<T> tiles;
  __shared__ T squares[2 * kTile];
  double* mass = dynamic_shared();
  const int x_tiles = tiles_of(call.n), y_tiles = tiles_of(call.m), pairs = call.classes * call.classes;
  const int item = blockIdx.x, x_items = call.groups * x_tiles;
  const bool of_x = item < x_items;
  const int first = of_x ? item / x_tiles : (item - x_items) / y_tiles;
  const Span a = of_x ? span_of(item % x_tiles, 0, call.n) : span_of((item - x_items) % y_tiles, call.n, call.rows());
  T* out = of_x ? grad_x + (static_cast<int64_t>(first) * call.n + a.from) * call.width
                : grad_y + (static_cast<int64_t>(first) * call.m + a.from - call.n) * call.width;
  double totals[kPart] = {};
  // The groups of one target have its centre in common, so that what they add up may be subtracted together.
  for (int g = first; g < call.groups; g += of_x ? call.groups : call.targets) {
    __syncthreads();
    call.masses(g, mass);
    const double* own_bands = bands + static_cast<int64_t>(g) * (1 + pairs);
    each_tile(call.n, call.rows(), [&](Span b) {
      T tile[kPart][kPart];
      tile_distances(call, g, a, b, noise, tiles, squares, tile);
      tile_slopes(call, g, a, b, own_bands, grad_sample, grad_value + static_cast<int64_t>(g) * pairs, mass, tile, totals);
      add_product(call, g, a, b, tile, tiles, out);
    });
  }
  for (int i = 0; i < kPart; ++i) {
    const int r = threadIdx.x / 16 + 16 * i;
    const T total = static_cast<T>(half_sum(totals[i]));
    if (a.from + r >= a.end) continue;
    for (int c = threadIdx.x % 16; c < call.width; c += 16)
      out[static_cast<int64_t>(r) * call.width + c] -= total * (call.row(first, a.from + r)[c] - call.middle(first, c));
  }
}

}  // namespace fercore
