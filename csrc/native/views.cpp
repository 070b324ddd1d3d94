// The image lies planar while colours change, since luma and blends run along rows; then pixel by pixel, four floats each,
// so that a tap of the bilinear sampling is one vector. The formulas are those of fercore/data/images/augment.py, in their order.
#include "views.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fercore {
namespace {

typedef float Pixel __attribute__((vector_size(16)));

constexpr int kBrightness = 0, kContrast = 1;
// Sampling reads the pixel at floor(x) and the one behind it, with x in [-1, side]: one black pixel before, two behind.
constexpr int64_t kBefore = 1, kBorder = 3;

float clamped(float value) { return std::min(std::max(value, 0.0f), 1.0f); }

void to_luma(const float* x, int64_t n, float* luma) {
  for (int64_t i = 0; i < n; ++i) luma[i] = x[i] * 0.2989f + x[n + i] * 0.587f + x[2 * n + i] * 0.114f;
}

void blend(float* x, int64_t n, float factor, float base) {
  for (int64_t i = 0; i < n; ++i) x[i] = clamped(x[i] * factor + base);
}

void jitter(float* x, int64_t n, int64_t stage, float factor, float* luma) {
  if (stage == kBrightness) return blend(x, 3 * n, factor, 0.0f);
  to_luma(x, n, luma);
  if (stage == kContrast) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += luma[i];
    return blend(x, 3 * n, factor, static_cast<float>(sum / n) * (1.0f - factor));
  }
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t i = 0; i < n; ++i) x[c * n + i] = clamped(x[c * n + i] * factor + luma[i] * (1.0f - factor));
}

// Lays planar x [3,S,S] out as pixels inside a black border.
void interleave(const float* x, int64_t side, float* padded) {
  const int64_t width = side + kBorder, n = side * side;
  std::memset(padded, 0, sizeof(float) * 4 * width * width);
  for (int64_t r = 0; r < side; ++r) {
    float* to = padded + 4 * ((r + kBefore) * width + kBefore);
    const float* from = x + r * side;
    for (int64_t c = 0; c < side; ++c, to += 4) {
      to[0] = from[c];
      to[1] = from[n + c];
      to[2] = from[2 * n + c];
    }
  }
}

Pixel pixel(const float* at) {
  Pixel p;
  std::memcpy(&p, at, sizeof p);
  return p;
}

void sample(const float* padded, int64_t side, const float* theta, const Pixel& mean, const Pixel& std, float* out) {
  const int64_t width = side + kBorder, n = side * side;
  const float edge = static_cast<float>(side), half = 0.5f * edge;
  const float step = 2.0f / edge, first = step / 2 - 1;  // the middle of the first pixel
  for (int64_t r = 0; r < side; ++r) {
    const float down = first + step * r;
    const float row_x = theta[1] * down + theta[2], row_y = theta[4] * down + theta[5];
    for (int64_t c = 0; c < side; ++c) {
      const float along = first + step * c;
      // The constant stands first, so that a NaN becomes a place as well.
      const float x = std::min(edge, std::max(-1.0f, (theta[0] * along + row_x + 1) * half - 0.5f));
      const float y = std::min(edge, std::max(-1.0f, (theta[3] * along + row_y + 1) * half - 0.5f));
      const int64_t left = static_cast<int64_t>(x + 1), top = static_cast<int64_t>(y + 1);  // floor, shifted by the border
      const float right_share = x + 1 - left, bottom_share = y + 1 - top;
      const float* at = padded + 4 * (top * width + left);
      const Pixel upper = pixel(at) * (1 - right_share) + pixel(at + 4) * right_share;
      const Pixel lower = pixel(at + 4 * width) * (1 - right_share) + pixel(at + 4 * width + 4) * right_share;
      const Pixel value = (upper * (1 - bottom_share) + lower * bottom_share - mean) / std;
      const int64_t to = r * side + c;
      out[to] = value[0];
      out[n + to] = value[1];
      out[2 * n + to] = value[2];
    }
  }
}

}  // namespace

int64_t scratch_size(int64_t side) { return 4 * side * side + 4 * (side + kBorder) * (side + kBorder); }

void make_view(const uint8_t* pixels, int64_t side, const View& view, const float* mean, const float* std, float* scratch,
               float* out) {
  const int64_t n = side * side;
  float *x = scratch, *luma = scratch + 3 * n, *padded = scratch + 4 * n;
  for (int64_t i = 0; i < 3 * n; ++i) x[i] = pixels[i] / 255.0f;
  for (int64_t k = 0; k < 3; ++k) jitter(x, n, view.stages[k], view.factors[view.stages[k]], luma);
  if (view.grey) {
    to_luma(x, n, luma);
    for (int64_t c = 0; c < 3; ++c) std::memcpy(x + c * n, luma, sizeof(float) * n);
  }
  interleave(x, side, padded);
  sample(padded, side, view.theta, Pixel{mean[0], mean[1], mean[2], 0}, Pixel{std[0], std[1], std[2], 1}, out);
}

}  // namespace fercore
