// A batch's augmented views in one pass an image: colours, grey, an affine map with bilinear sampling, normalisation.
#pragma once

#include <cstdint>

namespace fercore {

// One sample's own parameters.
struct View {
  const int64_t* stages;  // [3], an order of brightness (0), contrast (1) and saturation (2)
  const float* factors;   // [3], of brightness, contrast and saturation
  bool grey;
  const float* theta;  // [2,3], from output to input places in [-1, 1], as of an image with edges at -1 and 1
};

// Numbers that `make_view` works in: two images of float32, one of them with a border and four channels a pixel.
int64_t scratch_size(int64_t side);

// out float32 [3,S,S] = (the view of pixels uint8 [3,S,S] - mean[3]) / std[3]; outside the image is black.
void make_view(const uint8_t* pixels, int64_t side, const View& view, const float* mean, const float* std, float* scratch,
               float* out);

}  // namespace fercore
