#include "depthwise.h"

#include <array>
#include <utility>

#include "memory.h"

namespace cnnjax {
namespace {

constexpr int64_t kBand = 64 * 1024;  // numbers of an image that a thread keeps in its second-level cache
constexpr int64_t kChannels = 128;    // that are computed together, so that their weights stay in the first-level cache
constexpr int64_t kSums = 32;         // parts that gradients of weights are summed in
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

// ---- Sums over a window, of every output: forward, and for the gradient of the input.

// What an output reads and where it goes. Steps are in numbers.
struct Sweep {
  Axis rows, columns;
  const float* w;  // [rows.taps][columns.taps][channels]
  int64_t channels, in_row, out_row, out_column;
  float* y;  // of all images
  Finish after = {};

  template <int kCount>
  void put(const Vec* sums, const float* weights, float* to) const {
    finish<kCount>(after, sums, weights - w, y, to - y, out_column);
  }
};

// kCount outputs side by side, of one vector of channels, from the rows of taps [from, until). x: under tap (0, 0) of the first, of whose
// columns those of [left, right) are inside the image; all of them if kInside.
template <int kTaps, int kStride, bool kInside, int kCount>
void tile(const Sweep& s, const float* x, const float* w, int64_t from, int64_t until, int64_t left, int64_t right, float* y) {
  Vec sum[kCount] = {};
  for (int64_t i = from; i < until; ++i) {
    const float *line = x + i * s.in_row, *row = w + i * kTaps * s.channels;
    Vec weight[kTaps];
    UNROLL for (int j = 0; j < kTaps; ++j) weight[j] = load(row + j * s.channels);
    UNROLL for (int u = 0; u < (kCount - 1) * kStride + kTaps; ++u) {
      if (!kInside && (u < left || u >= right)) continue;
      const Vec value = load(line + u * s.channels);
      UNROLL for (int j = 0; j < kTaps; ++j)
        if ((u - j) % kStride == 0 && u >= j && (u - j) / kStride < kCount) sum[(u - j) / kStride] += weight[j] * value;
    }
  }
  s.put<kCount>(sum, w, y);
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
  static const Tiles whole[] = {tiles<1, 1, kInside>(widths), tiles<2, 1, kInside>(widths), tiles<3, 1, kInside>(widths),
                                tiles<4, 1, kInside>(widths), tiles<5, 1, kInside>(widths), {}, tiles<7, 1, kInside>(widths)};
  static const Tiles halved[] = {tiles<3, 2, kInside>(widths), tiles<5, 2, kInside>(widths), tiles<7, 2, kInside>(widths)};
  return stride == 1 ? whole[taps - 1] : halved[taps / 2 - 1];
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
    const float* from_x = x + s.rows.first(p) * s.in_row + first * s.channels;
    for (int64_t v = v0; v < v1; ++v) {
      const int64_t c = channels.start(v);
      tile(s, from_x + c, s.w + c, from, until, -first, s.columns.in - first, y + p * s.out_row + q0 * s.out_column + c);
    }
  }
}

// Rows of an image in bands, channels in groups: work(image, first row, end, first vector, end).
template <typename Work>
void for_bands(const Pool& pool, int64_t n, int64_t rows, int64_t row_size, int64_t channels, const Work& work) {
  const Parts bands(rows, kBand / row_size), groups(Channels{channels}.vectors(), kChannels / kLanes);
  parallel_for(pool, n * bands.parts, [&](int64_t job) {
    const int64_t band = job % bands.parts;
    for (int64_t group = 0; group < groups.parts; ++group)
      work(job / bands.parts, bands.begin(band), bands.end(band), groups.begin(group), groups.end(group));
  });
}

// ---- The gradient of the weights.

// Sums of g(p, q) x(p, q + tap) along the columns of one row of g, for each tap of a row: kVectors vectors of channels.
template <int kTaps, int kStride, int kVectors>
struct RowSums {
  Vec sum[kVectors][kTaps] = {};

  template <bool kWhole>
  void add(const Axis& axis, int64_t q, int64_t channels, const float* x, const float* g) {
    Vec gradient[kVectors];
    UNROLL for (int v = 0; v < kVectors; ++v) gradient[v] = load(g + q * channels + v * kLanes);
    const int64_t first = q * kStride - axis.before;
    UNROLL for (int j = 0; j < kTaps; ++j)
      if (kWhole || (first + j >= 0 && first + j < axis.in))
        UNROLL for (int v = 0; v < kVectors; ++v) sum[v][j] += gradient[v] * load(x + (first + j) * channels + v * kLanes);
  }
};

// The sums of rows [p0, p1) of an image, added to [kernel][kernel][vectors of channels][kLanes].
template <int kTaps, int kStride, int kVectors>
void add_rows(const Depthwise& s, const Axis& rows, const Axis& columns, int64_t p0, int64_t p1, int64_t c, const float* x,
              const float* g, float* sums, int64_t step) {
  const int64_t begin = columns.begin(), end = columns.end();
  for (int64_t i = 0; i < kTaps; ++i) {
    RowSums<kTaps, kStride, kVectors> own;
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t row = rows.first(p) + i;
      if (row < 0 || row >= s.h) continue;
      const float *line = x + row * s.w * s.channels + c, *gradient = g + p * s.columns * s.channels + c;
      for (int64_t q = 0; q < begin; ++q) own.template add<false>(columns, q, s.channels, line, gradient);
      for (int64_t q = begin; q < end; ++q) own.template add<true>(columns, q, s.channels, line, gradient);
      for (int64_t q = end; q < s.columns; ++q) own.template add<false>(columns, q, s.channels, line, gradient);
    }
    UNROLL for (int j = 0; j < kTaps; ++j)
      UNROLL for (int v = 0; v < kVectors; ++v) {
        float* to = sums + (i * kTaps + j) * step + v * kLanes;
        store(to, load(to) + own.sum[v][j]);
      }
  }
}

template <int kTaps, int kStride>
void weights(const Pool& pool, const Depthwise& s, const Axis& rows, const Axis& columns, const float* x, const float* g, float* dw) {
  constexpr int kVectors = kTaps == 3 ? 4 : kTaps == 5 ? 2 : 1;
  const Channels channels{s.channels};
  const int64_t vectors = channels.vectors(), step = vectors * kLanes, size = kTaps * kTaps * step;
  const Parts bands(s.rows, kBand / (s.w * s.channels * kStride));
  const Parts parts(s.n * bands.parts, ceil_div(s.n * bands.parts, kSums));
  const Memory sums(parts.parts * size);
  // Threads beyond the parts share the channels of a part, each in tiles of kVectors vectors.
  const int64_t wanted = ceil_div(pool.threads, parts.parts), tiles = ceil_div(vectors, kVectors);
  const Parts ranges(tiles, ceil_div(tiles, wanted));
  parallel_for(pool, parts.parts * ranges.parts, [&](int64_t task) {
    const int64_t part = task / ranges.parts, range = task % ranges.parts;
    const int64_t v0 = ranges.begin(range) * kVectors, v1 = std::min(vectors, ranges.end(range) * kVectors);
    float* own = sums.get() + part * size;
    for (int64_t tap = 0; tap < kTaps * kTaps; ++tap) std::fill_n(own + tap * step + v0 * kLanes, (v1 - v0) * kLanes, 0.f);
    for (int64_t job = parts.begin(part); job < parts.end(part); ++job) {
      const int64_t n = job / bands.parts, p0 = bands.begin(job % bands.parts), p1 = bands.end(job % bands.parts);
      const float *image = x + n * s.h * s.w * s.channels, *gradient = g + n * s.rows * s.columns * s.channels;
      for (int64_t v = v0; v < v1;) {
        const bool wide = (v + kVectors) * kLanes <= s.channels;
        auto* add = wide ? add_rows<kTaps, kStride, kVectors> : add_rows<kTaps, kStride, 1>;
        add(s, rows, columns, p0, p1, channels.start(v), image, gradient, own + v * kLanes, step);
        v += wide ? kVectors : 1;
      }
    }
  });
  parallel_for(pool, kTaps * kTaps, [&](int64_t tap) {
    for (int64_t v = 0; v < vectors; ++v) {
      Vec sum{};
      for (int64_t part = 0; part < parts.parts; ++part) sum += load(sums.get() + part * size + tap * step + v * kLanes);
      store(dw + tap * s.channels + channels.start(v), sum);
    }
  });
}

// ---- The gradient of the input: pixels of a residue, by the stride, see the taps of one residue, turned round.

struct Phase {
  int64_t first, taps, before;  // the first tap, their number, and where the window of pixel `residue` begins
  Phase(int64_t residue, int64_t kernel, int64_t stride, int64_t before_x)
      : first((residue + before_x) % stride), taps(ceil_div(kernel - first, stride)),
        before(taps - 1 - (residue + before_x - first) / stride) {}
};

void inputs(const Pool& pool, const Depthwise& s, const float* w, const float* g, float* dx) {
  const int64_t stride = s.stride, whole = s.kernel * s.kernel * s.channels;
  const Memory turned(whole);
  std::vector<Sweep> sweeps;
  float* to = turned.get();
  for (int64_t i = 0; i < stride; ++i)
    for (int64_t j = 0; j < stride; ++j) {
      const Phase row(i, s.kernel, stride, s.top), column(j, s.kernel, stride, s.left);
      sweeps.push_back({{s.rows, ceil_div(s.h - i, stride), 1, row.before, row.taps},
                        {s.columns, ceil_div(s.w - j, stride), 1, column.before, column.taps}, to, s.channels,
                        s.columns * s.channels, stride * s.w * s.channels, stride * s.channels, dx});
      for (int64_t a = row.taps; a-- > 0;)
        for (int64_t b = column.taps; b-- > 0;)
          to = std::copy_n(w + ((row.first + a * stride) * s.kernel + column.first + b * stride) * s.channels, s.channels, to);
    }
  for_bands(pool, s.n, s.h, s.w * s.channels, s.channels, [&](int64_t n, int64_t r0, int64_t r1, int64_t v0, int64_t v1) {
    const float* gradient = g + n * s.rows * s.columns * s.channels;
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t j = 0; j < std::min(stride, s.w); ++j)
        sweep_row(sweeps[r % stride * stride + j], r / stride, v0, v1, gradient,
                  dx + ((n * s.h + r % stride) * s.w + j) * s.channels);
  });
}

Axis rows_of(const Depthwise& s) { return {s.h, s.rows, s.stride, s.top, s.kernel}; }
Axis columns_of(const Depthwise& s) { return {s.w, s.columns, s.stride, s.left, s.kernel}; }

}  // namespace

void depthwise_forward(const Pool& pool, const Depthwise& s, const float* x, const float* w, const Finish& after, float* y) {
  const Sweep sweep{rows_of(s), columns_of(s), w, s.channels, s.w * s.channels, s.columns * s.channels, s.channels, y, after};
  for_bands(pool, s.n, s.rows, s.stride * s.w * s.channels, s.channels, [&](int64_t n, int64_t p0, int64_t p1, int64_t v0, int64_t v1) {
    for (int64_t p = p0; p < p1; ++p)
      sweep_row(sweep, p, v0, v1, x + n * s.h * s.w * s.channels, y + n * s.rows * s.columns * s.channels);
  });
}

void depthwise_backward(const Pool& pool, const Depthwise& s, const float* x, const float* w, const float* g, float* dw, float* dx) {
  auto* sum = s.stride == 1 ? (s.kernel == 3 ? weights<3, 1> : s.kernel == 5 ? weights<5, 1> : weights<7, 1>)
                            : (s.kernel == 3 ? weights<3, 2> : s.kernel == 5 ? weights<5, 2> : weights<7, 2>);
  sum(pool, s, rows_of(s), columns_of(s), x, g, dw);
  inputs(pool, s, w, g, dx);
}

}  // namespace cnnjax
