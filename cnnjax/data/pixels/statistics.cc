// The statistics of pixels that cnnjax/data/pixel_statistics.py describes and has in NumPy.

#include <cmath>

#include "pixels.h"

namespace pixels {
namespace {

constexpr long BORDER = 3;  // rows at the top and at the bottom

struct Sums {
  uint64_t channels[3] = {}, pixels = 0;

  void add(const uint8_t* row, long from, long to) {
    uint32_t some[3] = {};  // of up to 2^24 pixels
    for (long x = from; x < to; x++)
      for (int c = 0; c < 3; c++) some[c] += row[3 * x + c];
    for (int c = 0; c < 3; c++) channels[c] += some[c];
    pixels += to - from;
  }

  void means(double* out) const {
    for (int c = 0; c < 3; c++) out[c] = channels[c] / (255.0 * pixels);
  }
};

}  // namespace

void statistics(const uint8_t* image, long height, long width, double* out) {
  constexpr int PAIRS[6][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}};
  static thread_local std::vector<float> luma;
  luma.resize(width);
  Sums all, middle, border;
  uint64_t products[6] = {};
  double edges[3] = {};
  for (long y = 0; y < height; y++) {
    const uint8_t* row = image + 3 * width * y;
    all.add(row, 0, width);
    if (y >= height / 4 && y < height - height / 4) middle.add(row, width / 4, width - width / 4);
    if (y < BORDER) border.add(row, 0, width);
    if (y >= height - BORDER) border.add(row, 0, width);  // of fewer rows some count twice
    uint32_t some[6] = {};  // of up to 2^16 pixels
    for (long x = 0; x < width; x++) {
      const uint32_t rgb[3] = {row[3 * x], row[3 * x + 1], row[3 * x + 2]};
      for (int i = 0; i < 6; i++) some[i] += rgb[PAIRS[i][0]] * rgb[PAIRS[i][1]];
      luma[x] = 0.299f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2];
      if (x % 65536 == 65535 || x + 1 == width)
        for (int i = 0; i < 6; i++) products[i] += some[i], some[i] = 0;
    }
    float steps = 0, squares = 0, turns = 0, before = 0;
    for (long x = 1; x < width; x++) {
      const float step = luma[x] - luma[x - 1];
      steps += std::fabs(step), squares += step * step;
      if (x > 1) turns += std::fabs(step - before);
      before = step;
    }
    edges[0] += steps, edges[1] += squares, edges[2] += turns;
  }
  double mean[3];
  all.means(mean);
  const auto covariance = [&](int pair) {
    return products[pair] / (255.0 * 255.0 * all.pixels) - mean[PAIRS[pair][0]] * mean[PAIRS[pair][1]];
  };
  for (int c = 0; c < 3; c++) {
    out[c] = mean[c], out[3 + c] = std::sqrt(std::max(covariance(c), 0.0)), out[15 + c] = covariance(3 + c);
  }
  out[6] = edges[0] / (255.0 * height * (width - 1)), out[8] = edges[2] / (255.0 * height * (width - 2));
  out[7] = std::sqrt(edges[1] / (255.0 * 255.0 * height * (width - 1)));
  middle.means(out + 9), border.means(out + 12);
}

}  // namespace pixels
