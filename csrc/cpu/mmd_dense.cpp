// MMD of groups whose distances fit in the cache: computed once, kept for the backward, groups in parallel.
#include <deque>

#include "mmd.h"

namespace fercore {
namespace {

// y's side, shared by the groups that have the same rows and labels: rows centred and in class order.
template <class T>
struct Targets {
  const Inputs<T>& in;
  const Kernels<T>& vec;
  int64_t count, ld;
  std::deque<Order> order;
  T *centre, *rows;

  Targets(const Inputs<T>& in, const Kernels<T>& vec)
      : in(in), vec(vec), count(std::max(in.p.targets, in.p.label_targets)), ld(padded(vec, in.p.width)) {
    for (int64_t t = 0; t < count; ++t) order.emplace_back(in.labels_of_y(t), in.p.m, in.p.classes);
    centre = scratch<T>(0, count * in.p.width);
    rows = scratch<T>(1, count * in.p.m * ld);
    run_items(count, [&](int64_t t) {
      find_centre(vec, in, t, centre_of(t));
      gather(in.rows_of_y(t), order[t], t, rows_of(t));
    });
  }

  T* centre_of(int64_t g) const { return centre + g % count * in.p.width; }
  T* rows_of(int64_t g) const { return rows + g % count * in.p.m * ld; }
  const Order& order_of(int64_t g) const { return order[g % count]; }

  // Copy rows in class order, centred, zeros in the padding.
  void gather(const T* from, const Order& by, int64_t g, T* to) const {
    for (size_t r = 0; r < by.row.size(); ++r)
      vec.centre(from + by.row[r] * in.p.width, centre_of(g), to + r * ld, in.p.width, ld);
  }
};

// Products -> squared distances above the diagonal, and 0 elsewhere, so that what is kept is the same every time.
template <class T>
void to_distances(const Kernels<T>& vec, T* matrix, int64_t rows, int64_t stride) {
  std::vector<T> squares(rows);
  for (int64_t i = 0; i < rows; ++i) squares[i] = matrix[i * stride + i];
  for (int64_t i = 0; i < rows; ++i) {
    T* row = matrix + i * stride;
    std::fill(row, row + i + 1, T(0));
    std::fill(row + rows, row + stride, T(0));
    vec.distances(row + i + 1, squares[i], squares.data() + i + 1, rows - i - 1);
  }
}

// Mean squared distances over ordered pairs i != j: of all rows, and of the rows of each class pair.
template <class T>
void measure_bands(const Kernels<T>& vec, const T* matrix, int64_t stride, Group<T>& group) {
  const int64_t rows = group.rows(), classes = group.classes;
  std::vector<double> own_x(classes), own_y(classes), across(classes * classes);
  double total = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const T* d = matrix + i * stride;
    if (group.sample) total += 2 * vec.plain_sum(d + i + 1, rows - i - 1);
    int last = -1;  // the segments within a side repeat for every class of the other: count them once
    group.segments(i, i + 1, rows, [&](int64_t a, int64_t b, int64_t pair, int kind) {
      if (kind != 1 && last == kind) return;
      if (kind != 1) last = kind;
      const double part = 2 * vec.plain_sum(d + a, b - a);
      (kind == 0 ? own_x[pair / classes] : kind == 1 ? across[pair] : own_y[pair % classes]) += part;
    });
  }
  group.sample_band = rows > 1 ? total / (static_cast<double>(rows) * (rows - 1)) : 0;
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t l = 0; l < classes; ++l) {
      const double count = group.x.start[k + 1] - group.x.start[k] + group.y.start[l + 1] - group.y.start[l];
      const double pairs = count * (count - 1);
      group.bands[k * classes + l] = pairs > 0 ? (own_x[k] + own_y[l] + across[k * classes + l]) / pairs : 0;
    }
}

template <class T>
struct Step {
  const Inputs<T>& in;
  const Kernels<T>& vec = kernels<T>();
  Mixture mixture;
  Targets<T> targets;
  int64_t n, m, rows, stride, ld, depth;

  explicit Step(const Inputs<T>& in)
      : in(in), mixture(mixture_of(in.num_kernels, in.multiplier)), targets(in, vec), n(in.p.n), m(in.p.m),
        rows(in.p.rows()), stride(in.p.stride()), ld(targets.ld), depth(ld - vec.width) {}
};

template <class T>
void forward_group(const Step<T>& s, const Forward<T>& out, const T* target_products, int64_t g) {
  const Inputs<T>& in = s.in;
  const Order order(in.labels_of_x(g), s.n, in.p.classes);
  Group<T> group(in.p, order, s.targets.order_of(g));
  in.set_weights(group, g);
  T* x = scratch<T>(2, s.n * s.ld);
  T* matrix = out.memo != nullptr ? out.memo + g * s.rows * s.stride : scratch<T>(3, s.rows * s.stride);
  s.targets.gather(in.rows_of_x(g), order, g, x);
  s.vec.gram(x, s.n, x, s.n, s.depth, s.ld, matrix, s.stride, true);
  s.vec.gram(x, s.n, s.targets.rows_of(g), s.m, s.depth, s.ld, matrix + s.n, s.stride, false);
  // The y-y products were computed once for all groups of the target.
  for (int64_t r = 0; r < s.m; ++r)
    std::copy_n(target_products + r * s.m + r, s.m - r, matrix + (s.n + r) * s.stride + s.n + r);
  to_distances(s.vec, matrix, s.rows, s.stride);
  out.choose_bands(group, g, [&] { measure_bands(s.vec, matrix, s.stride, group); });
  group.set_scales(in.num_kernels, in.multiplier);
  Sums sums(in.p.classes);
  for (int64_t i = 0; i < s.rows; ++i)
    group.sum_row(s.vec, s.mixture, i, i + 1, s.rows, matrix + i * s.stride + i + 1, sums);
  const int64_t pairs = in.p.classes * in.p.classes;
  group.finish(sums, in.num_kernels, out.sample + g, out.value + g * pairs, out.valid + g * pairs);
}

// The matrix whose product with the rows is the gradient: coefficients off the diagonal, minus their row sums on it.
template <class T>
void coefficients(const Step<T>& s, const Backward<T>& out, const Order& order, int64_t g, T* matrix) {
  const Inputs<T>& in = s.in;
  Group<T> group(in.p, order, s.targets.order_of(g));
  in.set_weights(group, g);
  out.take_bands(group, g);
  group.set_scales(in.num_kernels, in.multiplier);
  const T* distances = out.memo + g * s.rows * s.stride;
  const T* grad_value = out.grad_value + g * in.p.classes * in.p.classes;
  for (int64_t i = 0; i < s.rows; ++i) {
    std::fill_n(matrix + i * s.stride, s.rows, T(0));
    group.slope_row(s.vec, s.mixture, i, i + 1, s.rows, distances + i * s.stride + i + 1, out.grad_sample[g], grad_value,
                    matrix + i * s.stride + i + 1);
  }
  mirror(matrix, s.rows, s.stride);
  for (int64_t i = 0; i < s.rows; ++i)
    matrix[i * s.stride + i] = static_cast<T>(-s.vec.plain_sum(matrix + i * s.stride, s.rows));
}

// One block of rows of a gradient: in x's rows of one group, or in y's rows of one target.
template <class T>
struct Products {
  const Step<T>& s;
  const std::deque<Order>& order_x;
  const T *x, *matrices;
  const Backward<T>& out;

  const T* matrix(int64_t g) const { return matrices + g * s.rows * s.stride; }
  const T* rows_of_x(int64_t g) const { return x + g * s.n * s.ld; }

  void source(int64_t g, int64_t first, int64_t count) const {
    T* block = cleared(count);
    const T* row = matrix(g) + first * s.stride;
    s.vec.product(block, count, s.depth, row, s.stride, 1, rows_of_x(g), s.n, s.ld);
    s.vec.product(block, count, s.depth, row + s.n, s.stride, 1, s.targets.rows_of(g), s.m, s.ld);
    scatter(block, order_x[g], first, count, out.grad_x + g * s.n * s.in.p.width, false);
  }

  void target(int64_t t, int64_t first, int64_t count) const {
    T* block = cleared(count);
    T* within = scratch<T>(5, count * s.m);
    std::fill_n(within, count * s.m, T(0));
    for (int64_t g = t; g < s.in.p.groups; g += s.targets.count) {
      const T* row = matrix(g) + (s.n + first) * s.stride;
      s.vec.product(block, count, s.depth, row, s.stride, 1, rows_of_x(g), s.n, s.ld);
      for (int64_t r = 0; r < count; ++r) s.vec.add(within + r * s.m, row + r * s.stride + s.n, s.m);
    }
    s.vec.product(block, count, s.depth, within, s.m, 1, s.targets.rows_of(t), s.m, s.ld);
    T* grad = out.grad_y + t % s.in.p.targets * s.m * s.in.p.width;
    scatter(block, s.targets.order_of(t), first, count, grad, t >= s.in.p.targets);
  }

 private:
  T* cleared(int64_t count) const {
    T* block = scratch<T>(4, count * s.ld);
    std::fill_n(block, count * s.ld, T(0));
    return block;
  }

  void scatter(const T* block, const Order& order, int64_t first, int64_t count, T* to, bool add) const {
    const int64_t width = s.in.p.width;
    for (int64_t r = 0; r < count; ++r) {
      T* row = to + order.row[first + r] * width;
      add ? s.vec.add(row, block + r * s.ld, width) : void(std::copy_n(block + r * s.ld, width, row));
    }
  }
};

// Blocks of about 64 rows of an n-row side: first row and count of block b of `blocks`.
int64_t blocks_of(int64_t n) { return (n + 63) / 64; }
int64_t block_first(int64_t n, int64_t b) { return n * b / blocks_of(n); }

template <class T>
void run_products(const Products<T>& products) {
  const Problem& p = products.s.in.p;
  const int64_t targets = products.s.targets.count, bx = blocks_of(p.n);
  const bool whole = targets != p.targets;  // several orders of one target's rows: one item, so that no two write one row
  const int64_t by = whole ? 1 : blocks_of(p.m), y_items = (whole ? p.targets : targets) * by;
  run_items(y_items + p.groups * bx, [&](int64_t item) {
    if (item >= y_items) {
      const int64_t g = (item - y_items) / bx, b = (item - y_items) % bx, first = block_first(p.n, b);
      return products.source(g, first, block_first(p.n, b + 1) - first);
    }
    if (!whole) {
      const int64_t first = block_first(p.m, item % by);
      return products.target(item / by, first, block_first(p.m, item % by + 1) - first);
    }
    for (int64_t t = item; t < targets; t += p.targets) products.target(t, 0, p.m);
  });
}

}  // namespace

template <class T>
void dense_forward(const Inputs<T>& in, const Forward<T>& out) {
  const Step<T> s(in);
  T* products = scratch<T>(5, s.targets.count * s.m * s.m);
  run_items(s.targets.count, [&](int64_t t) {
    const T* y = s.targets.rows_of(t);
    s.vec.gram(y, s.m, y, s.m, s.depth, s.ld, products + t * s.m * s.m, s.m, true);
  });
  if (out.memo != nullptr) std::fill_n(out.memo + in.p.groups * s.rows * s.stride, kRowPadding, T(0));
  run_items(in.p.groups, [&](int64_t g) { forward_group(s, out, products + g % s.targets.count * s.m * s.m, g); });
}

template <class T>
void dense_backward(const Inputs<T>& in, const Backward<T>& out) {
  const Step<T> s(in);
  std::deque<Order> order_x;
  for (int64_t g = 0; g < in.p.groups; ++g) order_x.emplace_back(in.labels_of_x(g), s.n, in.p.classes);
  T* x = scratch<T>(2, in.p.groups * s.n * s.ld);
  T* matrices = scratch<T>(3, in.p.groups * s.rows * s.stride);
  run_items(in.p.groups, [&](int64_t g) {
    s.targets.gather(in.rows_of_x(g), order_x[g], g, x + g * s.n * s.ld);
    coefficients(s, out, order_x[g], g, matrices + g * s.rows * s.stride);
  });
  run_products(Products<T>{s, order_x, x, matrices, out});
}

template void dense_forward(const Inputs<float>&, const Forward<float>&);
template void dense_forward(const Inputs<double>&, const Forward<double>&);
template void dense_backward(const Inputs<float>&, const Backward<float>&);
template void dense_backward(const Inputs<double>&, const Backward<double>&);

}  // namespace fercore
