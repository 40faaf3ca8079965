#include "depthwise.h"

#include <array>
#include <utility>

#include "memory.h"

namespace cnnjax {
namespace {

constexpr int64_t kBand = 64 * 1024;  // numbers of an image that a thread keeps in its second-level cache
constexpr int64_t kChannels = 128;    // that are computed together, so that their weights stay in the first-level cache
constexpr int kWidth = 8;             // outputs in a tile

// Vectors of channels; where channels are no multiple, the last two overlap.
struct Channels {
  int64_t count;
  int64_t vectors() const { return ceil_div(count, kLanes); }
  int64_t start(int64_t vector) const { return std::min(vector * kLanes, count - kLanes); }
};

// Along one axis an output at p sees the inputs from stride * p - before on. Those of outputs [begin, end) are all there.
struct Axis {
  int64_t in, out, stride, before, taps;

  int64_t first(int64_t p) const { return stride * p - before; }
  int64_t from(int64_t p) const { return std::clamp<int64_t>(-first(p), 0, taps); }
  int64_t until(int64_t p) const { return std::clamp<int64_t>(in - first(p), from(p), taps); }
  int64_t begin() const { return std::clamp<int64_t>(ceil_div(before, stride), 0, out); }
  int64_t end() const { return std::max(begin(), std::min(out, in + before < taps ? 0 : (in + before - taps) / stride + 1)); }
};

struct Sweep {
  Axis rows, columns;
  const float* w;  // [taps][taps][channels]
  int64_t channels;
  float* y;  // of all images
  Finish after;

  int64_t in_row() const { return columns.in * channels; }
  int64_t out_row() const { return columns.out * channels; }
};

// kCount outputs side by side, of one vector of channels, from the rows of taps [from, until). x: under tap (0, 0) of the first, of whose
// columns those of [left, right) are inside the image; all of them if kInside.
template <int kTaps, int kStride, bool kInside, int kCount>
void tile(const Sweep& s, const float* x, const float* w, int64_t from, int64_t until, int64_t left, int64_t right, float* y) {
  Vec sum[kCount] = {};
  for (int64_t i = from; i < until; ++i) {
    const float *line = x + i * s.in_row(), *row = w + i * kTaps * s.channels;
    Vec weight[kTaps];
    UNROLL for (int j = 0; j < kTaps; ++j) weight[j] = load(row + j * s.channels);
    UNROLL for (int u = 0; u < (kCount - 1) * kStride + kTaps; ++u) {
      if (!kInside && (u < left || u >= right)) continue;
      const Vec value = load(line + u * s.channels);
      UNROLL for (int j = 0; j < kTaps; ++j)
        if ((u - j) % kStride == 0 && u >= j && (u - j) / kStride < kCount) sum[(u - j) / kStride] += weight[j] * value;
    }
  }
  finish<kCount>(s.after, sum, w - s.w, s.y, y - s.y, s.channels);
}

using Tile = void (*)(const Sweep&, const float*, const float*, int64_t, int64_t, int64_t, int64_t, float*);
using Tiles = std::array<Tile, kWidth>;  // [t - 1]: of t outputs

template <int kTaps, int kStride, bool kInside, int... kIndex>
constexpr Tiles tiles(std::integer_sequence<int, kIndex...>) {
  return {tile<kTaps, kStride, kInside, kIndex + 1>...};
}

template <bool kInside>
const Tiles& tiles_of(int64_t taps, int64_t stride) {
  constexpr auto widths = std::make_integer_sequence<int, kWidth>{};
  static const Tiles table[] = {tiles<3, 1, kInside>(widths), tiles<3, 2, kInside>(widths), tiles<5, 1, kInside>(widths),
                                tiles<5, 2, kInside>(widths), tiles<7, 1, kInside>(widths), tiles<7, 2, kInside>(widths)};
  return table[taps - 3 + stride - 1];
}

// Row p of the outputs, channels of vectors [v0, v1). x and y: the first numbers of an image and of its outputs.
void sweep_row(const Sweep& s, int64_t p, int64_t v0, int64_t v1, const float* x, float* y) {
  const Channels channels{s.channels};
  const Tiles &inside = tiles_of<true>(s.columns.taps, s.columns.stride), &edge = tiles_of<false>(s.columns.taps, s.columns.stride);
  const int64_t from = s.rows.from(p), until = s.rows.until(p), begin = s.columns.begin(), end = s.columns.end();
  const Parts parts(s.columns.out, kWidth);
  for (int64_t part = 0; part < parts.parts; ++part) {
    const int64_t q0 = parts.begin(part), q1 = parts.end(part), first = s.columns.first(q0);
    const Tile tile = (begin <= q0 && q1 <= end ? inside : edge)[q1 - q0 - 1];
    const float* from_x = x + s.rows.first(p) * s.in_row() + first * s.channels;
    for (int64_t v = v0; v < v1; ++v) {
      const int64_t c = channels.start(v);
      tile(s, from_x + c, s.w + c, from, until, -first, s.columns.in - first, y + p * s.out_row() + q0 * s.channels + c);
    }
  }
}

}  // namespace

void depthwise_forward(const Pool& pool, const Depthwise& s, const float* x, const float* w, const Finish& after, float* y) {
  const Sweep sweep{{s.h, s.rows, s.stride, s.top, s.kernel}, {s.w, s.columns, s.stride, s.left, s.kernel}, w, s.channels, y, after};
  const Parts bands(s.rows, kBand / (s.stride * s.w * s.channels)), groups(Channels{s.channels}.vectors(), kChannels / kLanes);
  parallel_for(pool, s.n * bands.parts, [&](int64_t job) {
    const int64_t n = job / bands.parts, band = job % bands.parts;
    for (int64_t group = 0; group < groups.parts; ++group)
      for (int64_t p = bands.begin(band); p < bands.end(band); ++p)
        sweep_row(sweep, p, groups.begin(group), groups.end(group), x + n * s.h * s.w * s.channels, y + n * s.rows * s.columns * s.channels);
  });
}

}  // namespace cnnjax
