#include "linked_reads.h"
#include "pointwise_tiles.h"

namespace cnnjax {
namespace {

constexpr int64_t kOwn = 64 * 1024;   // numbers that a thread keeps in its second-level cache
constexpr int64_t kSums = 64;         // parts at most that sums are made in
constexpr int64_t kWeights = 1 << 20;  // numbers of partial sums of weights
constexpr int64_t kColumns = 96, kRows = 64;  // of x at once, in the gradient of the weights

// y = x w for kHeight rows of x, `inner` numbers each, and 16 channels; sums: [2][16], or null.
template <int kHeight>
void output_tile(const float* x, int64_t x_step, int64_t inner, const float* w, float* y, int64_t step, float* sums, bool past) {
  Vec sum[kVecs][kHeight] = {};
  multiply<kHeight>(x, x_step, inner, w, sum);
  UNROLL for (int v = 0; v < kVecs; ++v)
    put<kHeight>(sum[v], y + v * kLanes, step, sums ? sums + v * kLanes : nullptr, sums ? sums + kBlock + v * kLanes : nullptr, past);
}

// The gradient of kHeight inputs, 16 channels from c on, from those of outputs.
template <int kHeight>
void input_tile(const float* g, int64_t inner, const float* w, const Normed& before, const float* x, int64_t c, int64_t step, float* dx,
                float* sums, bool past) {
  Vec sum[kVecs][kHeight] = {};
  multiply<kHeight>(g, inner, inner, w, sum);
  UNROLL for (int v = 0; v < kVecs; ++v)
    leave<kHeight>(before, sum[v], x + v * kLanes, c + v * kLanes, step, dx + v * kLanes, sums + v * kLanes, sums + kBlock + v * kLanes, past);
}

// The same before a gate; before: [kHeight][16], `before_step` numbers apart.
template <int kHeight>
void gated_tile(const float* g, int64_t inner, const float* w, const float* before, int64_t before_step, int64_t step, float* dx, float* sums) {
  Vec sum[kVecs][kHeight] = {};
  multiply<kHeight>(g, inner, inner, w, sum);
  UNROLL for (int v = 0; v < kVecs; ++v)
    leave_gate<kHeight>(sum[v], before + v * kLanes, before_step, step, dx + v * kLanes, sums + v * kLanes);
}

using OutputTile = void (*)(const float*, int64_t, int64_t, const float*, float*, int64_t, float*, bool);
using InputTile = void (*)(const float*, int64_t, const float*, const Normed&, const float*, int64_t, int64_t, float*, float*, bool);
using GatedTile = void (*)(const float*, int64_t, const float*, const float*, int64_t, int64_t, float*, float*);
constexpr auto heights = std::make_integer_sequence<int, kTilePixels>{};

template <int... kIndex>
constexpr std::array<OutputTile, kTilePixels> output_tiles(std::integer_sequence<int, kIndex...>) {
  return {output_tile<kIndex + 1>...};  // [r - 1]: of r rows
}
template <int... kIndex>
constexpr std::array<InputTile, kTilePixels> input_tiles(std::integer_sequence<int, kIndex...>) {
  return {input_tile<kIndex + 1>...};
}
template <int... kIndex>
constexpr std::array<GatedTile, kTilePixels> gated_tiles(std::integer_sequence<int, kIndex...>) {
  return {gated_tile<kIndex + 1>...};
}

// Rows in parts that sums are made in, and those of a part in ranges that fit a cache. With a gate a part is of whole images, and a range
// of one image.
struct Rows {
  Parts parts;
  int64_t unit, most;  // rows that are not divided among parts; rows of a range

  Rows(const Pointwise& s, const Normed& before, int64_t most_parts, int64_t least, int64_t most)
      : parts(before.gate ? s.images : s.rows, std::max(ceil_div(before.gate ? s.images : s.rows, most_parts), before.gate ? 1 : least)),
        unit(before.gate ? s.pixels() : 1), most(most) {}

  // work(first row, number, image, whether the range is the last of the image)
  template <typename Work>
  void for_ranges(int64_t part, bool gated, const Work& work) const {
    for (int64_t first = parts.begin(part); first < parts.end(part);) {
      const int64_t next = gated ? first + 1 : parts.end(part);
      const Parts ranges((next - first) * unit, most);
      for (int64_t k = 0; k < ranges.parts; ++k)
        work(first * unit + ranges.begin(k), ranges.end(k) - ranges.begin(k), first, k + 1 == ranges.parts);
      first = next;
    }
  }
};

// Rows of an input as the norm makes them: channels [c, c + width), `width` numbers to a row.
void read_rows(const Normed& before, const float* x, int64_t step, int64_t rows, int64_t c, int64_t width, float* to) {
  for_rows(rows, [&](int64_t r, int64_t few) {
    for_channels(c, c + width, [&](int64_t i, auto wide) { read_input<wide>(before, x + r * step, step, few, i, to + r * width + i - c, width); });
  });
}

// from [rows][width] times a gate of so many channels, to another place: where these are no multiple, some are written twice.
void multiply_rows(const float* from, int64_t rows, int64_t width, const float* gate, float* to) {
  for_rows(rows, [&](int64_t r, int64_t few) {
    for_channels(0, width, [&](int64_t i, auto wide) {
      Vec factor[wide];
      UNROLL for (int v = 0; v < wide; ++v) factor[v] = load(gate + i + v * kLanes);
      for (int64_t k = r; k < r + few; ++k)
        UNROLL for (int v = 0; v < wide; ++v) store(to + k * width + i + v * kLanes, load(from + k * width + i + v * kLanes) * factor[v]);
    });
  });
}

// Two sums of each block of 16 channels, [parts][blocks][2][16] with `step` numbers between parts, to [channels] each.
void add_parts(const float* sums, int64_t parts, int64_t step, const Blocks& blocks, float* one, float* two) {
  for (int64_t block = 0; block < blocks.count(); ++block)
    for (int64_t v = 0; v < kBlock; v += kLanes) {
      Vec a{}, b{};
      for (int64_t part = 0; part < parts; ++part) {
        const float* own = sums + part * step + block * 2 * kBlock + v;
        a += load(own), b += load(own + kBlock);
      }
      store(one + blocks.start(block) + v, a), store(two + blocks.start(block) + v, b);
    }
}

}  // namespace

void pointwise_linked(const Pool& pool, const Pointwise& s, const float* x, const Normed& before, const float* w, float* y, float* sum,
                      float* squares) {
  static constexpr auto table = output_tiles(heights);
  const Blocks blocks{s.co};
  const int64_t size = s.ci * kBlock, step = blocks.count() * 2 * kBlock;
  const Memory packed(blocks.count() * size);
  parallel_for(pool, blocks.count(), [&](int64_t block) { pack(s, w, false, block, packed.get() + block * size); });
  const int64_t most = std::clamp<int64_t>(kOwn / s.ci, kTilePixels, 16 * kTilePixels);
  const Rows rows(s, before, kSums, most, most);
  const Memory sums(rows.parts.parts * step);
  const bool past = past_caches(y, s.rows, s.co);
  parallel_for(pool, rows.parts.parts, [&](int64_t part) {
    float* own = sums.get() + part * step;
    std::fill_n(own, step, 0.f);
    rows.for_ranges(part, before.gate, [&](int64_t begin, int64_t count, int64_t image, bool) {
      const float* from = x + begin * s.ci;
      if (before.mean) {
        float* read = scratch(Scratch::kInput, count * s.ci);
        read_rows(before, from, s.ci, count, 0, s.ci, read);
        from = read;
        if (before.gate) {
          float* gated = scratch(Scratch::kBetween, count * s.ci);
          multiply_rows(read, count, s.ci, before.gate + image * s.ci, gated);
          from = gated;
        }
      }
      const Parts tiles(count, kTilePixels);
      Ahead ahead{x + (begin + count) * s.ci, std::min(count, s.rows - begin - count), s.ci, s.ci};
      const int64_t lines = ceil_div(ahead.lines(), blocks.count() * tiles.parts);
      for (int64_t block = 0; block < blocks.count(); ++block)
        for (int64_t k = 0; k < tiles.parts; ++k, ahead.fetch(lines))
          table[tiles.end(k) - tiles.begin(k) - 1](from + tiles.begin(k) * s.ci, s.ci, s.ci, packed.get() + block * size,
                                                   y + (begin + tiles.begin(k)) * s.co + blocks.start(block), s.co,
                                                   sum ? own + block * 2 * kBlock : nullptr, past);
    });
    if (past) fence();
  });
  if (sum) add_parts(sums.get(), rows.parts.parts, step, blocks, sum, squares);
}

namespace {

// The gradients of one part of the rows and one group of channels of the input.
struct Backward {
  const Pointwise& s;
  const float* x;
  const Normed& before;
  const Incoming& in;
  const Outgoing& out;
  const float* packed;                  // turned weights, [block of inputs][co][16]
  Blocks inputs{s.ci}, outputs{s.co};
  bool past = past_caches(out.dx, s.rows, s.ci);
  int64_t first, last, c, width;        // blocks of the group, and its channels

  Backward(const Pointwise& s, const float* x, const Normed& before, const Incoming& in, const Outgoing& out, const float* packed,
           const Parts& groups, int64_t group)
      : s(s), x(x), before(before), in(in), out(out), packed(packed), first(groups.begin(group)), last(inputs.end(groups, group)),
        c(first * kBlock), width(inputs.start(last - 1) + kBlock - c) {}

  // Rows [begin, begin + count), of one image with a gate; dw: [block of outputs][input of the group][16], sums: [block of the group][2][16].
  void range(int64_t begin, int64_t count, int64_t image, float* dw, float* sums) const {
    static constexpr auto table = input_tiles(heights);
    static constexpr auto gated = gated_tiles(heights);
    static constexpr auto weights = transposed_tiles(heights);
    const float* g = in.g + begin * s.co;
    if (in.y) {
      float* to = scratch(Scratch::kGradient, count * s.co);
      for_rows(count, [&](int64_t r, int64_t few) {
        const int64_t at = (begin + r) * s.co;
        for_channels(0, s.co, [&](int64_t o, auto wide) {
          read_gradient<wide>(in, in.g + at, in.y + at, s.co, few, o, to + r * s.co + o, s.co);
        });
      });
      g = to;
    }
    const float *from = x + begin * s.ci + c, *read = from;
    int64_t step = s.ci;
    if (before.mean) {
      float* to = scratch(Scratch::kInput, count * width);
      read_rows(before, x + begin * s.ci, s.ci, count, c, width, to);
      from = read = to, step = width;
    }
    if (before.gate) {
      float* to = scratch(Scratch::kBetween, count * width);
      multiply_rows(read, count, width, before.gate + image * s.ci + c, to);
      from = to;
    }
    const Parts narrow(width, kTilePixels), tiles(count, kTilePixels);
    const int64_t next = begin + count, rows = std::min(count, s.rows - next);
    const int64_t calls = ceil_div(count, kRows) * outputs.count() * narrow.parts + (last - first) * tiles.parts;
    Ahead ahead[] = {{in.g + next * s.co, rows, s.co, s.co}, {in.y ? in.y + next * s.co : nullptr, in.y ? rows : 0, s.co, s.co},
                     {x + next * s.ci + c, rows, s.ci, width}};
    const int64_t lines = ceil_div(ahead[0].lines(), calls), x_lines = ceil_div(ahead[2].lines(), calls);
    const auto fetch = [&] { ahead[0].fetch(lines), ahead[1].fetch(lines), ahead[2].fetch(x_lines); };
    for (int64_t r = 0; r < count; r += kRows)
      for (int64_t block = 0; block < outputs.count(); ++block)
        for (int64_t k = 0; k < narrow.parts; ++k, fetch()) {
          const int64_t i = narrow.begin(k);
          weights[narrow.end(k) - i - 1](from + r * step + i, step, std::min(kRows, count - r), g + r * s.co + outputs.start(block),
                                         dw + (block * width + i) * kBlock, s.co);
        }
    for (int64_t block = first; block < last; ++block)
      for (int64_t k = 0; k < tiles.parts; ++k, fetch()) {
        const int64_t r = tiles.begin(k), height = tiles.end(k) - r, o = inputs.start(block), at = (begin + r) * s.ci + o;
        const float *gradient = g + r * s.co, *w = packed + block * s.co * kBlock;
        float* own = sums + (block - first) * 2 * kBlock;
        if (before.gate) gated[height - 1](gradient, s.co, w, read + r * width + o - c, width, s.ci, out.dx + at, own);
        else table[height - 1](gradient, s.co, w, before, x + at, o, s.ci, out.dx + at, own, past);
      }
  }
};

}  // namespace

void pointwise_linked_backward(const Pool& pool, const Pointwise& s, const float* x, const Normed& before, const float* w,
                               const Incoming& in, const Outgoing& out) {
  const Blocks inputs{s.ci}, outputs{s.co};
  const int64_t size = s.ci * s.co, step = inputs.count() * 2 * kBlock;
  const Pointwise turned{s.rows, s.co, s.ci};
  const Memory packed(inputs.count() * s.co * kBlock);
  parallel_for(pool, inputs.count(), [&](int64_t block) { pack(turned, w, true, block, packed.get() + block * s.co * kBlock); });
  const Parts groups(inputs.whole(), kColumns / kBlock);  // each job has rows of its own, and channels of the input
  const int64_t most = std::clamp<int64_t>(kOwn / (s.co + std::min(s.ci, kColumns)) / kRows * kRows, kRows, 8 * kRows);
  const Rows rows(s, before, std::clamp<int64_t>(kWeights / size, 1, kSums), 4 * kRows, most);
  const Parts& parts = rows.parts;
  const Memory partial(parts.parts > 1 ? parts.parts * size : 1), sums(parts.parts * step);
  parallel_for(pool, parts.parts * groups.parts, [&](int64_t job) {
    const int64_t part = job / groups.parts;
    const Backward one(s, x, before, in, out, packed.get(), groups, job % groups.parts);
    const int64_t blocks = one.last - one.first;
    float *own = scratch(Scratch::kSums, outputs.count() * one.width * kBlock), *own_sums = sums.get() + part * step + one.first * 2 * kBlock;
    std::fill_n(own, outputs.count() * one.width * kBlock, 0.f);
    std::fill_n(own_sums, blocks * 2 * kBlock, 0.f);
    rows.for_ranges(part, before.gate, [&](int64_t begin, int64_t count, int64_t image, bool last) {
      one.range(begin, count, image, own, own_sums);
      if (!before.gate || !last) return;
      for (int64_t block = 0; block < blocks; ++block)
        std::copy_n(own_sums + block * 2 * kBlock, kBlock, out.gate + image * s.ci + inputs.start(one.first + block));
      std::fill_n(own_sums, blocks * 2 * kBlock, 0.f);
    });
    if (one.past) fence();
    float* to = (parts.parts > 1 ? partial.get() + part * size : out.dw) + one.c * s.co;
    for (int64_t block = 0; block < outputs.count(); ++block)
      for (int64_t i = 0; i < one.width; ++i)
        std::copy_n(own + (block * one.width + i) * kBlock, kBlock, to + i * s.co + outputs.start(block));
  });
  if (before.mean && !before.gate) add_parts(sums.get(), parts.parts, step, inputs, out.along, out.offset);
  if (parts.parts == 1) return;
  const Parts shares(size, 4096);
  parallel_for(pool, shares.parts, [&](int64_t share) {
    const int64_t begin = shares.begin(share), end = shares.end(share);
    std::copy(partial.get() + begin, partial.get() + end, out.dw + begin);
    for (int64_t part = 1; part < parts.parts; ++part)
      for (int64_t i = begin; i < end; ++i) out.dw[i] += partial.get()[part * size + i];
  });
}

}  // namespace cnnjax
