// The two matrix products: squared distances between centred rows, and coefficients times rows. 64 x 64 tiles a block, 4 x 4 a
// thread, plain float32 multiplications (the distances are differences of large numbers, which tf32 does not survive).
#pragma once

#include "group.cuh"

namespace fercore {

constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kPart = kTile / 16;

__host__ __device__ inline int tiles_of(int rows) { return (rows + kTile - 1) / kTile; }

// Tile pairs of one group without y against y, and of one target: y against y.
__host__ __device__ inline int group_items(int n, int m) {
  return tiles_of(n) * (tiles_of(n) + 1) / 2 + tiles_of(n) * tiles_of(m);
}
__host__ __device__ inline int target_items(int m) { return tiles_of(m) * (tiles_of(m) + 1) / 2; }

// Number `index` of the pairs (a, b), a <= b < count.
__device__ inline void triangle(int index, int count, int& a, int& b) {
  a = 0;
  while (index >= count - a) {
    index -= count - a;
    ++a;
  }
  b = a + index;
}

template <class T>
struct Tiles {
  // One column more than the tile: threads that write down a column meet different banks of shared memory.
  T left[kDepth][kTile + 1], right[kDepth][kTile + 1];
};

template <class T>
__device__ inline void multiply(const Tiles<T>& tiles, T (&sum)[kPart][kPart]) {
  const int row = threadIdx.x / 16, column = threadIdx.x % 16;
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    T a[kPart], b[kPart];
#pragma unroll
    for (int i = 0; i < kPart; ++i) a[i] = tiles.left[k][row + 16 * i];
#pragma unroll
    for (int j = 0; j < kPart; ++j) b[j] = tiles.right[k][column + 16 * j];
#pragma unroll
    for (int i = 0; i < kPart; ++i)
#pragma unroll
      for (int j = 0; j < kPart; ++j) sum[i][j] = fma(a[i], b[j], sum[i][j]);
  }
}

// Rows [from, end) of a group that one side of a tile holds; at most kTile.
struct Span {
  int from, end;
};

__device__ inline Span span_of(int tile, int first, int end) {
  const int from = first + tile * kTile;
  return {from, from + kTile < end ? from + kTile : end};
}

// Squared distances between the rows of two spans, this thread's 4 x 4 of them; 0 outside and below what rounding makes.
template <class T>
__device__ inline void tile_distances(const Call<T>& call, int g, Span a, Span b, T noise, Tiles<T>& tiles, T* squares,
                                      T (&distance)[kPart][kPart]) {
  T sum[kPart][kPart] = {};
  T square = 0;
  const int lane = threadIdx.x % kDepth;
  __syncthreads();
  for (int k = 0; k < call.width; k += kDepth) {
    const bool inside = k + lane < call.width;
    const T middle = inside ? call.middle(g, k + lane) : T(0);
    for (int r = threadIdx.x / kDepth; r < kTile; r += kThreads / kDepth) {
      tiles.left[lane][r] = inside && a.from + r < a.end ? call.row(g, a.from + r)[k + lane] - middle : T(0);
      tiles.right[lane][r] = inside && b.from + r < b.end ? call.row(g, b.from + r)[k + lane] - middle : T(0);
    }
    __syncthreads();
    multiply(tiles, sum);
    // Squares in the order of the products, so that equal rows are at distance 0 exactly.
    if (threadIdx.x < 2 * kTile)
      for (int d = 0; d < kDepth; ++d) {
        const T value = threadIdx.x < kTile ? tiles.left[d][threadIdx.x] : tiles.right[d][threadIdx.x - kTile];
        square = fma(value, value, square);
      }
    __syncthreads();
  }
  if (threadIdx.x < 2 * kTile) squares[threadIdx.x] = square;
  __syncthreads();
  const int row = threadIdx.x / 16, column = threadIdx.x % 16;
  for (int i = 0; i < kPart; ++i)
    for (int j = 0; j < kPart; ++j) {
      const int r = row + 16 * i, c = column + 16 * j;
      const T bound = squares[r] + squares[kTile + c], value = bound - 2 * sum[i][j];
      const bool two_rows = a.from + r < a.end && b.from + c < b.end && a.from + r != b.from + c;
      distance[i][j] = two_rows && !(value - bound * noise <= 0) ? value : T(0);
    }
}

// Squared distances [G, rows, stride] of every group, both triangles; the y-y part is computed once for a shared target.
template <class T>
__global__ void __launch_bounds__(kThreads) distance_kernel(const Call<T> call, T noise, T* distances) {
  __shared__ Tiles<T> tiles;
  __shared__ T squares[2 * kTile];
  const int per_group = group_items(call.n, call.m), x_tiles = tiles_of(call.n), y_tiles = tiles_of(call.m);
  const int x_pairs = x_tiles * (x_tiles + 1) / 2, block = blockIdx.x;
  const bool of_target = block >= call.groups * per_group;
  int g, first, second;
  Span a, b;
  if (of_target) {
    const int item = block - call.groups * per_group;
    g = item / target_items(call.m);
    triangle(item % target_items(call.m), y_tiles, first, second);
    a = span_of(first, call.n, call.rows()), b = span_of(second, call.n, call.rows());
  } else {
    g = block / per_group;
    const int item = block % per_group;
    if (item < x_pairs) {
      triangle(item, x_tiles, first, second);
      a = span_of(first, 0, call.n), b = span_of(second, 0, call.n);
    } else {
      a = span_of((item - x_pairs) / y_tiles, 0, call.n), b = span_of((item - x_pairs) % y_tiles, call.n, call.rows());
    }
  }
  T distance[kPart][kPart];
  tile_distances(call, g, a, b, noise, tiles, squares, distance);
  const int row = a.from + threadIdx.x / 16, column = b.from + threadIdx.x % 16;
  for (int i = 0; i < kPart; ++i)
    for (int j = 0; j < kPart; ++j) {
      const int r = row + 16 * i, c = column + 16 * j;
      if (r >= a.end || c >= b.end) continue;
      for (int other = g; other < call.groups; other += of_target ? call.targets : call.groups) {
        T* matrix = distances + static_cast<int64_t>(other) * call.rows() * call.stride;
        matrix[r * call.stride + c] = distance[i][j];
        if (a.from != b.from) matrix[c * call.stride + r] = distance[i][j];
      }
    }
}

// Coefficient of row i of the output for row j of group g; on y's rows the groups of one target are summed.
template <class T>
__device__ inline T coefficient(const Call<T>& call, const T* matrices, int g, int i, int j, bool sum_groups) {
  const int64_t size = call.rows() * call.stride, at = i * call.stride + j;
  if (!sum_groups) return matrices[g * size + at];
  T sum = 0;
  for (int other = g; other < call.groups; other += call.targets) sum += matrices[other * size + at];
  return sum;
}

template <class T>
__device__ inline void accumulate(const Call<T>& call, const T* matrices, int g, bool sum_groups, int from_row, int end_row,
                                  int from_column, int from_j, int end_j, Tiles<T>& tiles, T (&sum)[kPart][kPart]) {
  const int column = threadIdx.x % kTile, at = from_column + column;
  const T middle = at < call.width ? call.middle(g, at) : T(0);
  for (int j = from_j; j < end_j; j += kDepth) {
    const int lane = threadIdx.x % kDepth;
    for (int r = threadIdx.x / kDepth; r < kTile; r += kThreads / kDepth)
      tiles.left[lane][r] = from_row + r < end_row && j + lane < end_j
                                ? coefficient(call, matrices, g, from_row + r, j + lane, sum_groups)
                                : T(0);
    for (int r = threadIdx.x / kTile; r < kDepth; r += kThreads / kTile)
      tiles.right[r][column] = j + r < end_j && at < call.width ? call.row(g, j + r)[at] - middle : T(0);
    __syncthreads();
    multiply(tiles, sum);
    __syncthreads();
  }
}

// Gradients: coefficients times centred rows. blockIdx.y counts the row tiles of x of every group, then of y of every target.
template <class T>
__global__ void __launch_bounds__(kThreads) product_kernel(const Call<T> call, const T* matrices, T* grad_x, T* grad_y) {
  __shared__ Tiles<T> tiles;
  const int x_tiles = tiles_of(call.n), y_tiles = tiles_of(call.m), from_column = blockIdx.x * kTile;
  const int item = blockIdx.y, x_items = call.groups * x_tiles;
  const bool of_x = item < x_items;
  const int g = of_x ? item / x_tiles : (item - x_items) / y_tiles;
  const int first = (of_x ? item % x_tiles : (item - x_items) % y_tiles) * kTile;
  const int from_row = of_x ? first : call.n + first, end_row = of_x ? call.n : call.rows();
  T sum[kPart][kPart] = {};
  if (of_x) {
    accumulate(call, matrices, g, false, from_row, end_row, from_column, 0, call.rows(), tiles, sum);
  } else {
    // The rows of one target have one centre in every group, so that their products may be added.
    for (int other = g; other < call.groups; other += call.targets)
      accumulate(call, matrices, other, false, from_row, end_row, from_column, 0, call.n, tiles, sum);
    accumulate(call, matrices, g, true, from_row, end_row, from_column, call.n, call.rows(), tiles, sum);
  }
  T* out = of_x ? grad_x + static_cast<int64_t>(g) * call.n * call.width
                : grad_y + static_cast<int64_t>(g) * call.m * call.width;
  const int row = threadIdx.x / 16, column = threadIdx.x % 16;
  for (int i = 0; i < kPart; ++i)
    for (int j = 0; j < kPart; ++j) {
      const int r = from_row + row + 16 * i, c = from_column + column + 16 * j;
      if (r < end_row && c < call.width) out[static_cast<int64_t>(r - (of_x ? 0 : call.n)) * call.width + c] = sum[i][j];
    }
}

}  // namespace fercore
