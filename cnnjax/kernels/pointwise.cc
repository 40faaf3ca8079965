#include "pointwise_tiles.h"

namespace cnnjax {
namespace {

constexpr int64_t kOwn = 64 * 1024;          // numbers that a thread keeps in its second-level cache
constexpr int64_t kSums = 1024 * 1024;       // numbers of partial sums of weights
constexpr int64_t kColumns = 48, kRows = 64;  // of x, which stay in the first-level cache in the gradient of the weights

// y [kHeight][16] = finished x [kHeight][inner] w [inner][16].
template <int kHeight>
void tile(const float* x, int64_t inner, const float* w, const Finish& after, int64_t channel, float* y, int64_t i, int64_t step) {
  Vec sum[kVecs][kHeight] = {};
  multiply<kHeight>(x, inner, inner, w, sum);
  UNROLL for (int v = 0; v < kVecs; ++v) finish<kHeight>(after, sum[v], channel + v * kLanes, y, i + v * kLanes, step);
}

using Tile = void (*)(const float*, int64_t, const float*, const Finish&, int64_t, float*, int64_t, int64_t);

template <int... kIndex>
constexpr std::array<Tile, kTilePixels> tiles(std::integer_sequence<int, kIndex...>) {
  return {tile<kIndex + 1>...};  // [r - 1]: of r rows
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
