// MMD of groups too large to keep their distances: pairs of row tiles, each computed, used and dropped. Memory O(N D).
#include <memory>

#include "mmd.h"

namespace fercore {
namespace {

constexpr int64_t kTile = 120;  // rows of a tile: a multiple of the kernels' register tiles; two tiles fit in L2

// All rows of a group as one list in class order, x before y.
template <class T>
struct Rows {
  const Kernels<T>& vec;
  int64_t n, m, width, ld, tiles;
  Order x, y;
  std::vector<const T*> from;  // position -> features
  std::vector<T*> grad;        // position -> gradient, if wanted
  std::vector<T> centre, squares;

  Rows(const Kernels<T>& vec, const Inputs<T>& in, int64_t g)
      : vec(vec), n(in.p.n), m(in.p.m), width(in.p.width), ld(padded(vec, width)), tiles((n + m + kTile - 1) / kTile),
        x(in.labels_of_x(g), n, in.p.classes), y(in.labels_of_y(g), m, in.p.classes), from(n + m), centre(width),
        squares(n + m) {
    find_centre(vec, in, g, centre.data());
    for (int64_t i = 0; i < n; ++i) from[i] = in.rows_of_x(g) + x.row[i] * width;
    for (int64_t j = 0; j < m; ++j) from[n + j] = in.rows_of_y(g) + y.row[j] * width;
    // The square of a row comes from the kernel of the products, so that equal rows are at distance 0 exactly.
    run_items(tiles, [&](int64_t tile) {
      T* row = scratch<T>(0, ld);
      for (int64_t i = first(tile); i < last(tile); ++i) {
        vec.centre(from[i], centre.data(), row, width, ld);
        vec.gram(row, 1, row, 1, ld - vec.width, ld, &squares[i], 1, true);
      }
    });
  }

  void set_gradients(T* grad_x, T* grad_y) {
    grad.resize(n + m);
    for (int64_t i = 0; i < n; ++i) grad[i] = grad_x + x.row[i] * width;
    for (int64_t j = 0; j < m; ++j) grad[n + j] = grad_y + y.row[j] * width;
  }

  int64_t first(int64_t tile) const { return tile * kTile; }
  int64_t last(int64_t tile) const { return std::min(n + m, (tile + 1) * kTile); }

  void copy(int64_t tile, T* to) const {
    for (int64_t i = first(tile); i < last(tile); ++i)
      vec.centre(from[i], centre.data(), to + (i - first(tile)) * ld, width, ld);
  }
};

// Bandwidths in closed form: the sum of squared distances of n rows is 2 n sum|u|^2 - 2 |sum u|^2.
template <class T>
struct Moments {
  double count = 0, squares = 0;
  std::vector<double> sum;

  Moments(const Rows<T>& rows, int64_t first, int64_t last) : count(last - first), sum(rows.width) {
    for (int64_t i = first; i < last; ++i) {
      squares += rows.squares[i];
      for (int64_t c = 0; c < rows.width; ++c) sum[c] += rows.from[i][c] - rows.centre[c];
    }
  }

  // In double: the two terms nearly cancel where rows lie close together.
  double mean_with(const Moments& other) const {
    const double total = count + other.count, pairs = total * (total - 1);
    double length = 0;
    for (size_t c = 0; c < sum.size(); ++c) length += (sum[c] + other.sum[c]) * (sum[c] + other.sum[c]);
    return pairs > 0 ? (2 * total * (squares + other.squares) - 2 * length) / pairs : 0;
  }
};

template <class T>
void measure_bands(const Rows<T>& rows, Group<T>& group) {
  const int64_t classes = group.classes;
  if (group.sample)
    group.sample_band = Moments<T>(rows, 0, rows.n).mean_with(Moments<T>(rows, rows.n, rows.n + rows.m));
  std::vector<Moments<T>> x, y;
  for (int64_t k = 0; k < classes; ++k) {
    x.emplace_back(rows, group.x.start[k], group.x.start[k + 1]);
    y.emplace_back(rows, rows.n + group.y.start[k], rows.n + group.y.start[k + 1]);
  }
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t l = 0; l < classes; ++l) group.bands[k * classes + l] = x[k].mean_with(y[l]);
}

enum class Mode { kSums, kSumsAndUnitGradient, kGradient };

template <class T>
struct Stream {
  const Rows<T>& rows;
  const Group<T>& group;
  const Mixture& mixture;
  Mode mode;
  T grad_sample = 1;
  const T* grad_value = nullptr;

  // Visit every pair of tiles. Rounds of a tournament: the pairs of one round share no tile, so they run in parallel
  // without two of them adding to one row, and every sum has one order whatever the number of threads.
  Sums run() const {
    Sums sums(group.classes);
    const int64_t players = rows.tiles + rows.tiles % 2;
    round(rows.tiles, [](int64_t i) { return std::pair{i, i}; }, sums);
    for (int64_t r = 0; r + 1 < players; ++r)
      round(
          players / 2,
          [&](int64_t i) {
            const int64_t a = i == 0 ? players - 1 : (r + i) % (players - 1);
            const int64_t b = i == 0 ? r : (r + players - 1 - i) % (players - 1);
            return std::pair{std::min(a, b), std::max(a, b)};
          },
          sums);
    return sums;
  }

 private:
  template <class F>
  void round(int64_t count, const F& pair_of, Sums& sums) const {
    std::vector<Sums> parts(count, Sums(group.classes));
    run_items(count, [&](int64_t i) {
      const auto [a, b] = pair_of(i);
      if (b < rows.tiles) visit(a, b, parts[i]);
    });
    for (const Sums& part : parts) sums.add(part);
  }

  void visit(int64_t a, int64_t b, Sums& sums) const {
    const Kernels<T>& vec = rows.vec;
    constexpr int64_t stride = kTile + 8;
    const int64_t height = rows.last(a) - rows.first(a), breadth = rows.last(b) - rows.first(b), ld = rows.ld;
    T* left = scratch<T>(0, kTile * ld);
    T* right = a == b ? left : scratch<T>(1, kTile * ld);
    T* matrix = scratch<T>(2, kTile * stride);
    T* slopes = scratch<T>(3, kTile * stride);
    rows.copy(a, left);
    if (a != b) rows.copy(b, right);
    vec.gram(left, height, right, breadth, ld - vec.width, ld, matrix, stride, a == b);
    std::fill_n(slopes, kTile * stride, T(0));
    for (int64_t r = 0; r < height; ++r) {
      // Inside one tile only pairs above the diagonal, so that each counts once.
      const int64_t i = rows.first(a) + r, skip = a == b ? r + 1 : 0, from = rows.first(b) + skip;
      T* d = matrix + r * stride + skip;
      if (skip < breadth) {
        vec.distances(d, rows.squares[i], rows.squares.data() + from, breadth - skip);
        row(i, from, rows.last(b), d, slopes + r * stride + skip, sums);
      }
    }
    if (mode == Mode::kSums) return;
    if (a == b) mirror(slopes, height, stride);
    add_gradient(a, left, slopes, stride, 1, right, breadth);
    if (a != b) add_gradient(b, right, slopes, 1, stride, left, height);
  }

  void row(int64_t i, int64_t from, int64_t to, const T* d, T* slopes, Sums& sums) const {
    if (mode == Mode::kSums) group.sum_row(rows.vec, mixture, i, from, to, d, sums);
    if (mode == Mode::kGradient)
      group.slope_row(rows.vec, mixture, i, from, to, d, grad_sample, grad_value, slopes);
    if (mode == Mode::kSumsAndUnitGradient)
      sums.sample += 2.0 * group.omega[i] *
                     rows.vec.row_both(d, group.omega.data() + from, to - from, group.sample_scale, 4 * group.omega[i],
                                       mixture, slopes);
  }

  // gradient of tile += slopes others - rowsum(slopes) own.
  void add_gradient(int64_t tile, const T* own, const T* slopes, int64_t row_step, int64_t column_step, const T* others,
                    int64_t count) const {
    const int64_t height = rows.last(tile) - rows.first(tile), ld = rows.ld;
    T* block = scratch<T>(4, kTile * ld);
    for (int64_t r = 0; r < height; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < count; ++c) sum += slopes[r * row_step + c * column_step];
      for (int64_t c = 0; c < ld; ++c) block[r * ld + c] = static_cast<T>(-sum) * own[r * ld + c];
    }
    rows.vec.product(block, height, ld - rows.vec.width, slopes, row_step, column_step, others, count, ld);
    for (int64_t r = 0; r < height; ++r) rows.vec.add(rows.grad[rows.first(tile) + r], block + r * ld, rows.width);
  }
};

}  // namespace

template <class T>
void stream_forward(const Inputs<T>& in, const Forward<T>& out) {
  const Mixture mixture = mixture_of(in.num_kernels, in.multiplier);
  const int64_t pairs = in.p.classes * in.p.classes;
  for (int64_t g = 0; g < in.p.groups; ++g) {
    Rows<T> rows(kernels<T>(), in, g);
    Group<T> group(in.p, rows.x, rows.y);
    in.set_weights(group, g);
    out.choose_bands(group, g, [&] { measure_bands(rows, group); });
    group.set_scales(in.num_kernels, in.multiplier);
    const bool unit = out.memo != nullptr;
    if (unit) {
      T* memo = out.memo + g * in.p.rows() * in.p.width;
      std::fill_n(memo, in.p.rows() * in.p.width, T(0));
      rows.set_gradients(memo, memo + in.p.n * in.p.width);
    }
    const Stream<T> stream{rows, group, mixture, unit ? Mode::kSumsAndUnitGradient : Mode::kSums};
    group.finish(stream.run(), in.num_kernels, out.sample + g, out.value + g * pairs, out.valid + g * pairs);
  }
}

template <class T>
void stream_backward(const Inputs<T>& in, const Backward<T>& out) {
  const Mixture mixture = mixture_of(in.num_kernels, in.multiplier);
  const int64_t pairs = in.p.classes * in.p.classes, size_x = in.p.n * in.p.width, size_y = in.p.m * in.p.width;
  // One group after the other: several may add to the gradient of one target. Within a group tiles are parallel.
  for (int64_t g = 0; g < in.p.groups; ++g) {
    T* grad_x = out.grad_x + g * size_x;
    T* grad_y = out.grad_y + g % in.p.targets * size_y;
    if (out.memo != nullptr) {
      const T* unit = out.memo + g * (size_x + size_y);
      for (int64_t i = 0; i < size_x; ++i) grad_x[i] += out.grad_sample[g] * unit[i];
      for (int64_t i = 0; i < size_y; ++i) grad_y[i] += out.grad_sample[g] * unit[size_x + i];
      continue;
    }
    Rows<T> rows(kernels<T>(), in, g);
    rows.set_gradients(grad_x, grad_y);
    Group<T> group(in.p, rows.x, rows.y);
    in.set_weights(group, g);
    out.take_bands(group, g);
    group.set_scales(in.num_kernels, in.multiplier);
    Stream<T>{rows, group, mixture, Mode::kGradient, out.grad_sample[g], out.grad_value + g * pairs}.run();
  }
}

template void stream_forward(const Inputs<float>&, const Forward<float>&);
template void stream_forward(const Inputs<double>&, const Forward<double>&);
template void stream_backward(const Inputs<float>&, const Backward<float>&);
template void stream_backward(const Inputs<double>&, const Backward<double>&);

}  // namespace fercore
