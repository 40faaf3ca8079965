#include <array>
#include <utility>

#include "linked_reads.h"
#include "memory.h"

namespace cnnjax {
namespace {

constexpr int64_t kBand = 96 * 1024;     // numbers of an image that a thread keeps in its second-level cache
constexpr int64_t kGroup = 96 / kLanes;  // vectors of channels that are computed together
constexpr int64_t kSums = 32;            // parts that sums are made in
constexpr int kWidth = 8;                // outputs in a tile

// Vectors of channels; where channels are no multiple, the last two overlap. One job has both, so that no number is written by two.
struct Channels {
  int64_t count;
  Parts groups{count / kLanes, kGroup};
  explicit Channels(int64_t count) : count(count) {}
  int64_t vectors() const { return ceil_div(count, kLanes); }
  int64_t start(int64_t vector) const { return std::min(vector * kLanes, count - kLanes); }
  int64_t end(int64_t group) const { return group + 1 == groups.parts ? vectors() : groups.end(group); }
  int64_t width() const { return std::min(kGroup + 1, vectors()) * kLanes; }  // numbers of the widest group, or a few more
};

// Rows [first, end) of an image, some channels of them, with zeros around: columns from -left on.
struct Band {
  float* data;
  int64_t first, left, columns, width;  // columns of zeros and all; numbers in a pixel

  float* at(int64_t row, int64_t column) const { return data + ((row - first) * columns + left + column) * width; }
};

// fill(row) fills in the w columns of those rows that the image of h rows has; the others and the sides become zeros.
template <typename Fill>
void fill_band(const Band& band, int64_t end, int64_t h, int64_t w, const Fill& fill) {
  for (int64_t row = band.first; row < end; ++row) {
    if (row < 0 || row >= h) {
      std::fill_n(band.at(row, -band.left), band.columns * band.width, 0.f);
      continue;
    }
    std::fill_n(band.at(row, -band.left), band.left * band.width, 0.f);
    std::fill_n(band.at(row, w), (band.columns - band.left - w) * band.width, 0.f);
    fill(row);
  }
}

// Sums over kTaps columns of `rows` rows under the window at x, of kCount outputs side by side. Steps are in numbers.
template <int kTaps, int kStride, int kCount>
INLINE void window(const float* x, int64_t row_step, int64_t rows, const float* w, int64_t width, Vec (&sum)[kCount]) {
  for (int64_t i = 0; i < rows; ++i, x += row_step, w += kTaps * width) {
    Vec weight[kTaps];
    UNROLL for (int j = 0; j < kTaps; ++j) weight[j] = load(w + j * width);
    UNROLL for (int u = 0; u < (kCount - 1) * kStride + kTaps; ++u) {
      const Vec value = load(x + u * width);
      UNROLL for (int j = 0; j < kTaps; ++j)
        if ((u - j) % kStride == 0 && u >= j && (u - j) / kStride < kCount) sum[(u - j) / kStride] += weight[j] * value;
    }
  }
}

// Where a row of a result begins, and the sums of its vectors: two of them, `sums_step` numbers apart.
struct Row {
  float* to;
  int64_t step;  // from pixel to pixel
  float* sums;
  int64_t sums_step;
  bool past;  // whether it is stored past the caches
};

template <int kTaps, int kStride, int kCount>
void output_tile(const float* x, int64_t row_step, const float* w, int64_t width, const Row& row) {
  Vec sum[kCount] = {};
  window<kTaps, kStride, kCount>(x, row_step, kTaps, w, width, sum);
  put<kCount>(sum, row.to, row.step, row.sums, row.sums + row.sums_step, row.past);
}

template <int kTaps, int kCount>
void input_tile(const float* g, int64_t row_step, int64_t rows, const float* w, int64_t width, const Normed& before, const float* x,
                int64_t c, const Row& row) {
  Vec sum[kCount] = {};
  window<kTaps, 1, kCount>(g, row_step, rows, w, width, sum);
  leave<kCount>(before, sum, x, c, row.step, row.to, row.sums, row.sums + row.sums_step, row.past);
}

using OutputTile = void (*)(const float*, int64_t, const float*, int64_t, const Row&);
using InputTile = void (*)(const float*, int64_t, int64_t, const float*, int64_t, const Normed&, const float*, int64_t, const Row&);
constexpr auto widths = std::make_integer_sequence<int, kWidth>{};

template <int kTaps, int kStride, int... kIndex>
constexpr std::array<OutputTile, kWidth> output_tiles(std::integer_sequence<int, kIndex...>) {
  return {output_tile<kTaps, kStride, kIndex + 1>...};  // [t - 1]: of t outputs
}
template <int kTaps, int... kIndex>
constexpr std::array<InputTile, kWidth> input_tiles(std::integer_sequence<int, kIndex...>) {
  return {input_tile<kTaps, kIndex + 1>...};
}
const std::array<OutputTile, kWidth>& output_tiles_of(int64_t taps, int64_t stride) {
  static constexpr std::array<OutputTile, kWidth> table[] = {output_tiles<3, 1>(widths), output_tiles<3, 2>(widths), output_tiles<5, 1>(widths),
                                                             output_tiles<5, 2>(widths), output_tiles<7, 1>(widths), output_tiles<7, 2>(widths)};
  return table[(taps - 3) + (stride - 1)];
}
const std::array<InputTile, kWidth>& input_tiles_of(int64_t taps) {
  static constexpr std::array<InputTile, kWidth> table[] = {input_tiles<1>(widths), input_tiles<2>(widths), input_tiles<3>(widths),
                                                            input_tiles<4>(widths), input_tiles<5>(widths), {}, input_tiles<7>(widths)};
  return table[taps - 1];
}

// Images in bands of rows of inputs and of outputs, in parts that sums are made in, and channels in groups.
struct Plan {
  Depthwise s;
  Channels channels{s.channels};
  int64_t bands;
  Parts parts;

  // columns: those that are kept of each row of inputs.
  Plan(const Depthwise& s, int64_t columns)
      : s(s), bands(Parts(s.h, kBand / (columns * channels.width())).parts), parts(s.n * bands, ceil_div(s.n * bands, kSums)) {}
  int64_t input(int64_t band) const { return s.h * band / bands; }
  int64_t output(int64_t band) const { return s.rows * band / bands; }
  int64_t top(int64_t row) const { return row * s.stride - s.top; }  // the first row that an output sees
};

// The weights of a group as [kernel][kernel][width].
void pick_weights(const Plan& plan, const float* w, int64_t v0, int64_t v1, float* to) {
  for (int64_t tap = 0; tap < plan.s.kernel * plan.s.kernel; ++tap)
    for (int64_t v = v0; v < v1; ++v, to += kLanes) store(to, load(w + tap * plan.s.channels + plan.channels.start(v)));
}

// work(first vector of some that lie side by side in an image, too, their number as a constant)
template <typename Work>
void for_vectors(const Channels& channels, int64_t v0, int64_t v1, const Work& work) {
  for (int64_t v = v0; v < v1;) {
    const bool wide = v + kTogether <= v1 && (v + kTogether) * kLanes <= channels.count;
    if (wide) work(v, std::integral_constant<int, kTogether>());
    else work(v, std::integral_constant<int, 1>());
    v += wide ? kTogether : 1;
  }
}

// Rows [band.first, end) of an image as the norm makes them.
void read_rows(const Plan& plan, const Normed& before, const float* image, int64_t v0, int64_t v1, const Band& band, int64_t end) {
  const Depthwise& s = plan.s;
  fill_band(band, end, s.h, s.w, [&](int64_t row) {
    for_vectors(plan.channels, v0, v1, [&](int64_t v, auto wide) {
      read_input<wide>(before, image + row * s.w * s.channels, s.channels, s.w, plan.channels.start(v), band.at(row, 0) + (v - v0) * kLanes,
                       band.width);
    });
  });
}

// The sums of all parts, [parts][vectors][kLanes] and so on with `step` numbers between parts, to [channels] each.
void add_parts(const Pool& pool, const Plan& plan, const float* sums, int64_t step, const std::vector<float*>& to) {
  const int64_t vectors = plan.channels.vectors();
  parallel_for(pool, static_cast<int64_t>(to.size()), [&](int64_t i) {
    for (int64_t v = 0; v < vectors; ++v) {
      Vec sum{};
      for (int64_t part = 0; part < plan.parts.parts; ++part) sum += load(sums + part * step + (i * vectors + v) * kLanes);
      store(to[i] + plan.channels.start(v), sum);
    }
  });
}

// ---- Backward: the weights.

// Adds g(p, q) z(p, q + tap) of rows [p0, p1) to `sums`, for each tap: kVectors vectors of channels; taps are `tap_step` numbers apart.
template <int kTaps, int kStride, int kVectors>
void add_rows(const Depthwise& s, const Band& z, const Band& g, int64_t p0, int64_t p1, int64_t c, float* sums, int64_t tap_step) {
  for (int64_t i = 0; i < kTaps; ++i) {
    Vec sum[kVectors][kTaps] = {};
    for (int64_t p = p0; p < p1; ++p) {
      const float *line = z.at(p * kStride - s.top + i, -s.left) + c, *gradient = g.at(p, 0) + c;
      for (int64_t q = 0; q < s.columns; ++q, line += kStride * z.width, gradient += g.width)
        UNROLL for (int v = 0; v < kVectors; ++v) {
          const Vec own = load(gradient + v * kLanes);
          UNROLL for (int j = 0; j < kTaps; ++j) sum[v][j] += own * load(line + j * z.width + v * kLanes);
        }
    }
    UNROLL for (int v = 0; v < kVectors; ++v)
      UNROLL for (int j = 0; j < kTaps; ++j) {
        float* to = sums + (i * kTaps + j) * tap_step + v * kLanes;
        store(to, load(to) + sum[v][j]);
      }
  }
}

template <int kTaps, int kStride>
void add_weights(const Depthwise& s, const Band& z, const Band& g, int64_t p0, int64_t p1, int64_t vectors, float* sums, int64_t tap_step) {
  constexpr int kVectors = kTaps == 3 ? 4 : kTaps == 5 ? 2 : 1;
  int64_t v = 0;
  for (; v + kVectors <= vectors; v += kVectors) add_rows<kTaps, kStride, kVectors>(s, z, g, p0, p1, v * kLanes, sums + v * kLanes, tap_step);
  for (; v < vectors; ++v) add_rows<kTaps, kStride, 1>(s, z, g, p0, p1, v * kLanes, sums + v * kLanes, tap_step);
}

// ---- Backward: the inputs. Pixels of a residue, by the stride, see the taps of one residue, turned round.

struct Phase {
  int64_t first, taps, before;  // the first tap, their number, and where the window of pixel `residue` begins
  Phase(int64_t residue, int64_t kernel, int64_t stride, int64_t before_x)
      : first((residue + before_x) % stride), taps(ceil_div(kernel - first, stride)),
        before(taps - 1 - (residue + before_x - first) / stride) {}
};

struct Phases {
  std::vector<Phase> rows, columns;  // of each residue
  int64_t left = 0, right = 0;       // columns of zeros that windows see beside the outputs

  explicit Phases(const Depthwise& s) {
    for (int64_t i = 0; i < s.stride; ++i) {
      rows.emplace_back(i, s.kernel, s.stride, s.top);
      columns.emplace_back(i, s.kernel, s.stride, s.left);
      if (i >= s.w) continue;
      left = std::max(left, columns[i].before);
      right = std::max(right, (s.w - 1 - i) / s.stride - columns[i].before + columns[i].taps - s.columns);
    }
  }
  // The rows of outputs that a row of inputs sees: from here on, so many.
  int64_t first(const Depthwise& s, int64_t row) const { return row / s.stride - rows[row % s.stride].before; }
  int64_t end(const Depthwise& s, int64_t row) const { return first(s, row) + rows[row % s.stride].taps; }
};

// The weights of a group, turned: for each residue of rows, each of columns, [taps][taps][width].
void turn_weights(const Plan& plan, const Phases& phases, const float* w, int64_t v0, int64_t v1, std::vector<const float*>& at, float* to) {
  const Depthwise& s = plan.s;
  at.clear();
  for (const Phase& row : phases.rows)
    for (const Phase& column : phases.columns) {
      at.push_back(to);
      for (int64_t a = row.taps; a-- > 0;)
        for (int64_t b = column.taps; b-- > 0;)
          for (int64_t v = v0; v < v1; ++v, to += kLanes)
            store(to, load(w + ((row.first + a * s.stride) * s.kernel + column.first + b * s.stride) * s.channels + plan.channels.start(v)));
    }
}

}  // namespace

void depthwise_linked(const Pool& pool, const Depthwise& s, const float* x, const Normed& before, const float* w, float* y, float* sum,
                      float* squares) {
  const int64_t columns = std::max((s.columns - 1) * s.stride + s.kernel, s.left + s.w);
  const Plan plan(s, columns);
  const auto& tiles = output_tiles_of(s.kernel, s.stride);
  const Parts& groups = plan.channels.groups;
  const int64_t vectors = plan.channels.vectors(), step = 2 * vectors * kLanes;
  const Memory sums(plan.parts.parts * step);
  const bool past = past_caches(y, s.n * s.rows * s.columns, s.channels);
  parallel_for(pool, plan.parts.parts * groups.parts, [&](int64_t task) {
    const int64_t part = task / groups.parts, v0 = groups.begin(task % groups.parts), v1 = plan.channels.end(task % groups.parts);
    const int64_t width = (v1 - v0) * kLanes;
    float *own = sums.get() + part * step, *weights = scratch(Scratch::kLine, s.kernel * s.kernel * width);
    std::fill_n(own + v0 * kLanes, width, 0.f), std::fill_n(own + (vectors + v0) * kLanes, width, 0.f);
    pick_weights(plan, w, v0, v1, weights);
    for (int64_t job = plan.parts.begin(part); job < plan.parts.end(part); ++job) {
      const int64_t n = job / plan.bands, p0 = plan.output(job % plan.bands), p1 = plan.output(job % plan.bands + 1);
      if (p0 == p1) continue;
      const int64_t end = plan.top(p1 - 1) + s.kernel;
      const Band z{scratch(Scratch::kInput, (end - plan.top(p0)) * columns * width), plan.top(p0), s.left, columns, width};
      read_rows(plan, before, x + n * s.h * s.w * s.channels, v0, v1, z, end);
      const Parts across(s.columns, kWidth);
      for (int64_t p = p0; p < p1; ++p)
        for (int64_t k = 0; k < across.parts; ++k)
          for (int64_t v = v0; v < v1; ++v) {
            const int64_t q = across.begin(k), c = (v - v0) * kLanes;
            const Row row{y + ((n * s.rows + p) * s.columns + q) * s.channels + plan.channels.start(v), s.channels, own + v * kLanes, vectors * kLanes, past};
            tiles[across.end(k) - q - 1](z.at(plan.top(p), q * s.stride - s.left) + c, columns * width, weights + c, width, row);
          }
    }
    if (past) fence();
  });
  add_parts(pool, plan, sums.get(), step, {sum, squares});
}

void depthwise_linked_backward(const Pool& pool, const Depthwise& s, const float* x, const Normed& before, const float* w,
                               const Incoming& in, const Outgoing& out) {
  const Phases phases(s);
  const int64_t columns = std::max((s.columns - 1) * s.stride + s.kernel, s.left + s.w), g_columns = phases.left + s.columns + phases.right;
  const Plan plan(s, columns + ceil_div(g_columns, s.stride));
  auto* add = s.stride == 1 ? (s.kernel == 3 ? add_weights<3, 1> : s.kernel == 5 ? add_weights<5, 1> : add_weights<7, 1>)
                            : (s.kernel == 3 ? add_weights<3, 2> : s.kernel == 5 ? add_weights<5, 2> : add_weights<7, 2>);
  const Parts& groups = plan.channels.groups;
  const int64_t taps = s.kernel * s.kernel, vectors = plan.channels.vectors(), step = (taps + 2) * vectors * kLanes;
  const Memory sums(plan.parts.parts * step);
  const bool past = past_caches(out.dx, s.n * s.h * s.w, s.channels);
  parallel_for(pool, plan.parts.parts * groups.parts, [&](int64_t task) {
    const int64_t part = task / groups.parts, v0 = groups.begin(task % groups.parts), v1 = plan.channels.end(task % groups.parts);
    const int64_t width = (v1 - v0) * kLanes, row_step = g_columns * width;
    float* own = sums.get() + part * step;
    for (int64_t i = 0; i < taps + 2; ++i) std::fill_n(own + (i * vectors + v0) * kLanes, width, 0.f);
    std::vector<const float*> weights;
    turn_weights(plan, phases, w, v0, v1, weights, scratch(Scratch::kLine, taps * width));
    for (int64_t job = plan.parts.begin(part); job < plan.parts.end(part); ++job) {
      const int64_t n = job / plan.bands, band = job % plan.bands;
      const int64_t p0 = plan.output(band), p1 = plan.output(band + 1), r0 = plan.input(band), r1 = plan.input(band + 1);
      int64_t g0 = p0 < p1 ? p0 : phases.first(s, r0), g1 = p1;
      for (int64_t r = r0; r < r1; ++r) g0 = std::min(g0, phases.first(s, r)), g1 = std::max(g1, phases.end(s, r));
      const Band g{scratch(Scratch::kGradient, (g1 - g0) * row_step), g0, phases.left, g_columns, width};
      fill_band(g, g1, s.rows, s.columns, [&](int64_t row) {
        const int64_t at = (n * s.rows + row) * s.columns * s.channels;
        for_vectors(plan.channels, v0, v1, [&](int64_t v, auto wide) {
          const int64_t c = plan.channels.start(v);
          float* to = g.at(row, 0) + (v - v0) * kLanes;
          if (in.y) read_gradient<wide>(in, in.g + at, in.y + at, s.channels, s.columns, c, to, width);
          else read_input<wide>({}, in.g + at, s.channels, s.columns, c, to, width);
        });
      });
      if (p0 < p1) {
        const int64_t end = plan.top(p1 - 1) + s.kernel;
        const Band z{scratch(Scratch::kInput, (end - plan.top(p0)) * columns * width), plan.top(p0), s.left, columns, width};
        read_rows(plan, before, x + n * s.h * s.w * s.channels, v0, v1, z, end);
        add(s, z, g, p0, p1, v1 - v0, own + v0 * kLanes, vectors * kLanes);
      }
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t j = 0; j < std::min(s.stride, s.w); ++j) {
          const Phase& column = phases.columns[j];
          const auto& tiles = input_tiles_of(column.taps);
          const Parts across((s.w - 1 - j) / s.stride + 1, kWidth);
          for (int64_t k = 0; k < across.parts; ++k)
            for (int64_t v = v0; v < v1; ++v) {
              const int64_t q = across.begin(k), c = plan.channels.start(v);
              const int64_t at = ((n * s.h + r) * s.w + q * s.stride + j) * s.channels + c;
              const Row row{out.dx + at, s.stride * s.channels, own + (taps * vectors + v) * kLanes, vectors * kLanes, past};
              tiles[across.end(k) - q - 1](g.at(phases.first(s, r), q - column.before) + (v - v0) * kLanes, row_step,
                                           phases.rows[r % s.stride].taps, weights[r % s.stride * s.stride + j] + (v - v0) * kLanes, width,
                                           before, x + at, c, row);
            }
        }
    }
    if (past) fence();
  });
  std::vector<float*> to;
  for (int64_t tap = 0; tap < taps; ++tap) to.push_back(out.dw + tap * s.channels);
  if (before.mean) to.push_back(out.along), to.push_back(out.offset);
  add_parts(pool, plan, sums.get(), step, to);
}

}  // namespace cnnjax
