#include "pointwise.h"

#include <array>

#include "memory.h"
#include "product.h"

namespace cnnjax {
namespace {

constexpr int64_t kOwn = 64 * 1024;          // numbers that a thread keeps in its second-level cache
constexpr int64_t kSums = 1024 * 1024;       // numbers of partial sums of weights
constexpr int64_t kColumns = 48, kRows = 64;  // of x, which stay in the first-level cache in the gradient of the weights

// Blocks of 16 channels; where channels are no multiple, the last two overlap. One job computes both, so that no number is
// written by two.
struct Blocks {
  int64_t channels;
  int64_t whole() const { return channels / kBlock; }
  int64_t count() const { return ceil_div(channels, kBlock); }
  int64_t start(int64_t block) const { return std::min(block * kBlock, channels - kBlock); }
  int64_t end(const Parts& parts, int64_t part) const { return part + 1 == parts.parts ? count() : parts.end(part); }
};

// y [kHeight][16] = finished x [kHeight][inner] w [inner][16].
template <int kHeight>
void tile(const float* x, int64_t inner, const float* w, const Finish& after, int64_t channel, float* y, int64_t i, int64_t step) {
  constexpr int kDeep = kLanes == 16 ? 4 : 1;  // rows of weights at once, as far as there are registers
  Vec sum[kVecs][kHeight] = {};
  for (int64_t k = 0; k < inner; k += kDeep, w += kDeep * kBlock) {
    Vec weight[kDeep][kVecs];
    UNROLL for (int d = 0; d < kDeep; ++d)
      UNROLL for (int v = 0; v < kVecs; ++v) weight[d][v] = load(w + d * kBlock + v * kLanes);
    UNROLL for (int r = 0; r < kHeight; ++r)
      UNROLL for (int d = 0; d < kDeep; ++d)
        UNROLL for (int v = 0; v < kVecs; ++v) sum[v][r] += weight[d][v] * x[r * inner + k + d];
  }
  UNROLL for (int v = 0; v < kVecs; ++v) finish<kHeight>(after, sum[v], channel + v * kLanes, y, i + v * kLanes, step);
}

using Tile = void (*)(const float*, int64_t, const float*, const Finish&, int64_t, float*, int64_t, int64_t);

template <int... kIndex>
constexpr std::array<Tile, kTilePixels> tiles(std::integer_sequence<int, kIndex...>) {
  return {tile<kIndex + 1>...};  // [r - 1]: of r rows
}

using Transposed = void (*)(const float*, int64_t, int64_t, const float*, float*, int64_t);

template <int... kIndex>
constexpr std::array<Transposed, kTilePixels> transposed_tiles(std::integer_sequence<int, kIndex...>) {
  return {transposed_tile<kIndex + 1>...};  // [i - 1]: of i columns
}

// w as [block][inner][16].
void pack(const Pointwise& s, const float* w, bool turned, int64_t block, float* to) {
  const int64_t o = Blocks{s.co}.start(block);
  if (!turned) {
    for (int64_t k = 0; k < s.ci; ++k) to = std::copy_n(w + k * s.co + o, kBlock, to);
    return;
  }
  for (int64_t c = 0; c < kBlock; c += kLanes)
    for (int64_t k = 0;; k = std::min(k + kLanes, s.ci - kLanes)) {
      Vec part[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) part[lane] = load(w + (o + c + lane) * s.ci + k);
      transpose(part);
      for (int lane = 0; lane < kLanes; ++lane) store(to + (k + lane) * kBlock + c, part[lane]);
      if (k == s.ci - kLanes) break;
    }
}

}  // namespace

void pointwise_forward(const Pool& pool, const Pointwise& s, const float* x, const float* w, bool turned, const Finish& after, float* y) {
  static constexpr auto table = tiles(std::make_integer_sequence<int, kTilePixels>{});
  const Blocks blocks{s.co};
  const int64_t size = s.ci * kBlock;
  const Memory packed(blocks.count() * size);
  parallel_for(pool, blocks.count(), [&](int64_t block) { pack(s, w, turned, block, packed.get() + block * size); });
  const Parts ranges(s.rows, std::clamp<int64_t>(kOwn / s.ci, kTilePixels, 16 * kTilePixels));
  const Parts channels = channel_parts(blocks.whole(), ranges.parts, pool.threads);
  parallel_for(pool, ranges.parts * channels.parts, [&](int64_t job) {
    const int64_t begin = ranges.begin(job / channels.parts), part = job % channels.parts;
    const Parts rows(ranges.end(job / channels.parts) - begin, kTilePixels);
    for (int64_t block = channels.begin(part); block < blocks.end(channels, part); ++block)
      for (int64_t k = 0; k < rows.parts; ++k) {
        const int64_t r = begin + rows.begin(k), o = blocks.start(block);
        table[rows.end(k) - rows.begin(k) - 1](x + r * s.ci, s.ci, packed.get() + block * size, after, o, y, r * s.co + o, s.co);
      }
  });
}

void pointwise_weights(const Pool& pool, const Pointwise& s, const float* x, const float* g, float* dw) {
  static constexpr auto table = transposed_tiles(std::make_integer_sequence<int, kTilePixels>{});
  const Blocks blocks{s.co};
  const int64_t size = s.ci * s.co;
  const Parts columns(s.ci, kColumns);
  const Parts parts(s.rows, std::max(ceil_div(s.rows, std::clamp<int64_t>(kSums / size, 1, 16)), 4 * kRows));
  const Memory sums(parts.parts * size);
  parallel_for(pool, parts.parts * columns.parts, [&](int64_t job) {
    const int64_t part = job / columns.parts, begin = columns.begin(job % columns.parts), count = columns.end(job % columns.parts) - begin;
    const Parts narrow(count, kTilePixels);
    float* own = scratch(Scratch::kSums, blocks.count() * count * kBlock);  // [block][column][16]
    std::fill_n(own, blocks.count() * count * kBlock, 0.f);
    for (int64_t r = parts.begin(part); r < parts.end(part); r += kRows)
      for (int64_t block = 0; block < blocks.count(); ++block)
        for (int64_t k = 0; k < narrow.parts; ++k) {
          const int64_t i = narrow.begin(k);
          table[narrow.end(k) - i - 1](x + r * s.ci + begin + i, s.ci, std::min(kRows, parts.end(part) - r),
                                       g + r * s.co + blocks.start(block), own + (block * count + i) * kBlock, s.co);
        }
    float* to = (parts.parts > 1 ? sums.get() + part * size : dw) + begin * s.co;
    for (int64_t block = 0; block < blocks.count(); ++block)
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(own + (block * count + i) * kBlock, kBlock, to + i * s.co + blocks.start(block));
  });
  if (parts.parts == 1) return;
  const Parts shares(s.ci, 16);
  parallel_for(pool, shares.parts, [&](int64_t share) {
    for (int64_t i = shares.begin(share) * s.co; i < shares.end(share) * s.co; ++i) {
      float sum = 0;
      for (int64_t part = 0; part < parts.parts; ++part) sum += sums.get()[part * size + i];
      dw[i] = sum;
    }
  });
}

}  // namespace cnnjax
