// Narrow codes are counted in a table addressed by the code itself; wide ones go through a radix sort of the bits that vary.
#include "code_join.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

namespace fercore {
namespace {

constexpr int kTableBits = 20;  // a table of 2^20 counts stays within a common last-level cache
constexpr int kDigitBits = 11;

// The bits in which any two keys differ lie in [shift, shift + width).
struct Span {
  int shift = 0, width = 0;
  uint64_t mask = 0;
  uint64_t digit(uint64_t key) const { return (key >> shift) & mask; }
};

uint64_t varying_bits(const uint64_t* keys, int64_t n, uint64_t first) {
  uint64_t varying = 0;
  for (int64_t i = 0; i < n; ++i) varying |= keys[i] ^ first;
  return varying;
}

Span span_of(const uint64_t* source, int64_t n, const uint64_t* target, int64_t m) {
  Span span;
  if (n + m == 0) return span;
  const uint64_t first = n > 0 ? source[0] : target[0];
  // Bits that all keys share tell nothing apart: codes of a few action units need a few bits, wherever these stand.
  const uint64_t varying = varying_bits(source, n, first) | varying_bits(target, m, first);
  if (varying == 0) return span;
  span.shift = std::countr_zero(varying);
  span.width = 64 - std::countl_zero(varying) - span.shift;
  span.mask = ~uint64_t{0} >> (64 - span.width);
  return span;
}

void by_table(const uint64_t* source, int64_t n, const uint64_t* target, int64_t m, Span span, int64_t* order,
              int64_t* start, int64_t* stop) {
  std::vector<uint32_t> table((size_t{1} << span.width) + 1);
  uint32_t* const next = table.data() + 1;  // a code's count, then where its next row goes, at last where its rows end
  for (int64_t i = 0; i < n; ++i) ++next[span.digit(source[i])];
  uint32_t sum = 0;
  for (uint32_t& entry : table) sum += std::exchange(entry, sum);
  for (int64_t i = 0; i < n; ++i) order[next[span.digit(source[i])]++] = i;
  for (int64_t j = 0; j < m; ++j) {
    const uint64_t code = span.digit(target[j]);
    start[j] = table[code];  // the end of the code before
    stop[j] = next[code];
  }
}

struct Row {
  uint64_t key;
  int64_t index;
};

std::vector<Row> sorted_rows(const uint64_t* keys, int64_t n, Span span) {
  std::vector<Row> rows(n), other(n);
  for (int64_t i = 0; i < n; ++i) rows[i] = {keys[i], i};
  const int passes = (span.width + kDigitBits - 1) / kDigitBits;
  const int bits = passes == 0 ? 0 : (span.width + passes - 1) / passes;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  std::vector<int64_t> cursor;
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = std::min(span.shift + pass * bits, 63);
    cursor.assign(size_t{1} << bits, 0);
    for (const Row& row : rows) ++cursor[(row.key >> shift) & mask];
    if (std::find(cursor.begin(), cursor.end(), n) != cursor.end()) continue;  // all rows share this digit
    int64_t sum = 0;
    for (int64_t& entry : cursor) sum += std::exchange(entry, sum);
    for (const Row& row : rows) other[cursor[(row.key >> shift) & mask]++] = row;
    rows.swap(other);
  }
  return rows;
}

void by_sorting(const uint64_t* source, int64_t n, const uint64_t* target, int64_t m, Span span, int64_t* order,
                int64_t* start, int64_t* stop) {
  const std::vector<Row> a = sorted_rows(source, n, span), b = sorted_rows(target, m, span);
  for (int64_t i = 0; i < n; ++i) order[i] = a[i].index;
  int64_t first = 0, last = 0;
  for (const Row& row : b) {
    // Equal target codes follow one another: their range is looked for once.
    if (last == 0 || first == last || a[first].key != row.key) {
      first = last;
      while (first < n && a[first].key < row.key) ++first;
      last = first;
      while (last < n && a[last].key == row.key) ++last;
    }
    start[row.index] = first;
    stop[row.index] = last;
  }
}

}  // namespace

void join_codes(const uint64_t* source, int64_t n, const uint64_t* target, int64_t m, int64_t* order, int64_t* start,
                int64_t* stop) {
  const Span span = span_of(source, n, target, m);
  // A table far larger than the rows costs more to clear than they cost to sort; its counts are 32 bits.
  const bool narrow = span.width <= kTableBits && (int64_t{1} << span.width) <= 8 * (n + m) + 4096;
  const auto join = narrow && n < int64_t{UINT32_MAX} ? by_table : by_sorting;
  join(source, n, target, m, span, order, start, stop);
}

}  // namespace fercore
