#include "gathered.h"

#include "memory.h"
#include "product.h"
#include "vector.h"

namespace cnnjax {
namespace {

constexpr int64_t kOwn = 112 * 1024;      // numbers that a thread keeps in its second-level cache
constexpr int64_t kShared = 1024 * 1024;  // numbers that all threads read from the cache they share
constexpr int64_t kFewRows = 2 * kTilePixels;

// The pixels that an output sees are gathered to a row of a matrix.
struct Gathered {
  const Plain& s;
  int64_t each = s.rows() * s.columns(), count = s.n * each;           // outputs
  int64_t taps = s.kernel * s.kernel * s.ci;                           // numbers in a row
  int64_t inner = ceil_div(taps, kBlock) * kBlock, row = spread(inner);  // with zeros at its end; to the next row

  void gather(const float* x, int64_t begin, int64_t end, float* to) const {
    const int64_t run = s.kernel * s.ci, whole = (run + kLanes - 1) / kLanes * kLanes;
    const int64_t all = s.n * s.h * s.w * s.ci;
    for (int64_t p = begin; p < end; ++p, to += row) {
      const int64_t top = p % each / s.columns() * s.stride - s.top, left = p % s.columns() * s.stride - s.left;
      const int64_t from = std::max<int64_t>(0, left), until = std::min(s.w, left + s.kernel);
      const int64_t image = p / each * s.h * s.w * s.ci;
      for (int64_t k = 0; k < s.kernel; ++k) {
        float* line = to + k * run;
        const int64_t source = image + ((top + k) * s.w + left) * s.ci;
        if (top + k < 0 || top + k >= s.h) {
          std::fill_n(line, run, 0.f);
        } else if (until - from == s.kernel && source + whole <= all) {  // in vectors; what is too much is overwritten
          for (int64_t i = 0; i < run; i += kLanes) store(line + i, load(x + source + i));
        } else {
          line = std::fill_n(line, (from - left) * s.ci, 0.f);
          line = std::copy_n(x + image + ((top + k) * s.w + from) * s.ci, (until - from) * s.ci, line);
          std::fill(line, to + (k + 1) * run, 0.f);
        }
      }
      std::fill(to + taps, to + inner, 0.f);
    }
  }
};

}  // namespace

void gathered_forward(const Pool& pool, const Plain& s, const float* x, const float* w, const Finish& after, float* y) {
  const Gathered rows{s};
  const int64_t blocks = s.co / kBlock, packed_size = rows.inner * kBlock;
  const Memory packed(blocks * packed_size);
  parallel_for(pool, blocks, [&](int64_t block) {
    float* to = packed.get() + block * packed_size;
    for (int64_t k = 0; k < rows.taps; ++k) to = std::copy_n(w + k * s.co + block * kBlock, kBlock, to);
    std::fill_n(to, (rows.inner - rows.taps) * kBlock, 0.f);
  });
  const Parts ranges(rows.count, std::clamp<int64_t>(kOwn / rows.row, kTilePixels, 4 * kTilePixels));
  const Parts channels = channel_parts(blocks, ranges.parts, pool.threads);
  parallel_for(pool, ranges.parts * channels.parts, [&](int64_t job) {
    const int64_t begin = ranges.begin(job / channels.parts), end = ranges.end(job / channels.parts);
    const int64_t part = job % channels.parts;
    float *a = scratch(Scratch::kInput, rows.row * (end - begin)), *c = scratch(Scratch::kSums, kBlock * (end - begin));
    rows.gather(x, begin, end, a);
    for (int64_t block = channels.begin(part); block < channels.end(part); ++block) {
      product(a, rows.row, end - begin, rows.inner, packed.get() + block * packed_size, c);
      for (int64_t p = begin; p < end; ++p)
        for (int64_t k = 0; k < kBlock; k += kLanes)
{
          const Vec sum = load(c + (p - begin) * kBlock + k);
          finish<1>(after, &sum, block * kBlock + k, y, p * s.co + block * kBlock + k, 0);
        }
    }
  });
}

void gathered_weights(const Pool& pool, const Plain& s, const float* x, const float* g, float* dw) {
  const Gathered rows{s};
  const int64_t blocks = s.co / kBlock;
  const int64_t wanted = ceil_div(pool.threads, rows.inner / kBlock);  // groups, for each thread to have one
  const Parts chunks(rows.count, kShared / rows.row), groups(blocks, std::min<int64_t>(8, ceil_div(blocks, wanted)));
  const int64_t block_step = chunks.largest() * kBlock;
  const Memory a(chunks.largest() * rows.row), z(blocks * block_step);
  for (int64_t chunk = 0; chunk < chunks.parts; ++chunk) {
    const int64_t first = chunks.begin(chunk), count = chunks.end(chunk) - first;
    const Parts few(count, 16);
    parallel_for(pool, few.parts, [&](int64_t job) {
      rows.gather(x, first + few.begin(job), first + few.end(job), a.get() + few.begin(job) * rows.row);
      for (int64_t p = few.begin(job); p < few.end(job); ++p)
        for (int64_t block = 0; block < blocks; ++block)
          std::copy_n(g + (first + p) * s.co + block * kBlock, kBlock, z.get() + block * block_step + p * kBlock);
    });
    parallel_for(pool, rows.inner / kBlock * groups.parts, [&](int64_t job) {
      const int64_t begin = job / groups.parts * kBlock, group = job % groups.parts, size = kBlock * kBlock;
      const int64_t b0 = groups.begin(group), b1 = groups.end(group);
      float* sums = scratch(Scratch::kSums, (b1 - b0) * size);
      std::fill_n(sums, (b1 - b0) * size, 0.f);
      for (int64_t r = 0; r < count; r += kChain)  // these rows stay in the first-level cache
        for (int64_t block = b0; block < b1; ++block)
          transposed_product(a.get() + r * rows.row + begin, rows.row, std::min(kChain, count - r), kBlock,
                             z.get() + block * block_step + r * kBlock, sums + (block - b0) * size);
      for (int64_t block = b0; block < b1; ++block)
        for (int64_t k = begin; k < std::min(begin + kBlock, rows.taps); ++k)
          for (int64_t c = 0; c < kBlock; c += kLanes) {
            const Vec sum = load(sums + (block - b0) * size + (k - begin) * kBlock + c);
            float* to = dw + k * s.co + block * kBlock + c;
            store(to, chunk ? load(to) + sum : sum);
          }
    });
  }
}

// What a pixel gets from an output, tap by tap, is a product of matrices; then it is added where it belongs.
void gathered_inputs(const Pool& pool, const Plain& s, const float* w, const float* g, float* dx) {
  const Gathered rows{s};
  const int64_t blocks = s.ci / kBlock, packed_size = s.co * kBlock, row = spread(s.co);
  const Memory packed(s.kernel * s.kernel * blocks * packed_size);  // [tap][block][co][16]
  parallel_for(pool, s.kernel * s.kernel * blocks, [&](int64_t job) {
    for (int64_t c = 0; c < kBlock; c += kLanes)
      for (int64_t k = 0; k < s.co; k += kLanes) {
        Vec part[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) part[lane] = load(w + (job * kBlock + c + lane) * s.co + k);
        transpose(part);
        for (int lane = 0; lane < kLanes; ++lane) store(packed.get() + job * packed_size + (k + lane) * kBlock + c, part[lane]);
      }
  });
  const Parts groups(s.n, ceil_div(kFewRows, rows.each)), channels = channel_parts(blocks, groups.parts, pool.threads);
  parallel_for(pool, groups.parts * channels.parts, [&](int64_t job) {
    const int64_t group = job / channels.parts, part = job % channels.parts;
    const int64_t n0 = groups.begin(group), n1 = groups.end(group), pixels = s.h * s.w;
    const int64_t c0 = channels.begin(part), c1 = channels.end(part);
    for (int64_t p = n0 * pixels; p < n1 * pixels; ++p) std::fill_n(dx + p * s.ci + c0 * kBlock, (c1 - c0) * kBlock, 0.f);
    const Parts ranges((n1 - n0) * rows.each, 8 * kTilePixels);
    for (int64_t range = 0; range < ranges.parts; ++range) {
      const int64_t begin = n0 * rows.each + ranges.begin(range), count = ranges.end(range) - ranges.begin(range);
      float *a = scratch(Scratch::kInput, count * row), *c = scratch(Scratch::kSums, count * kBlock);
      for (int64_t p = 0; p < count; ++p) std::copy_n(g + (begin + p) * s.co, s.co, a + p * row);
      for (int64_t tap = 0; tap < s.kernel * s.kernel; ++tap)
        for (int64_t block = c0; block < c1; ++block) {
          product(a, row, count, s.co, packed.get() + (tap * blocks + block) * packed_size, c);
          for (int64_t p = begin; p < begin + count; ++p) {
            const int64_t i = p % rows.each / s.columns() * s.stride - s.top + tap / s.kernel;
            const int64_t j = p % s.columns() * s.stride - s.left + tap % s.kernel;
            if (i < 0 || j < 0 || i >= s.h || j >= s.w) continue;
            float* to = dx + ((p / rows.each * s.h + i) * s.w + j) * s.ci + block * kBlock;
            for (int64_t k = 0; k < kBlock; k += kLanes) store(to + k, load(to + k) + load(c + (p - begin) * kBlock + k));
          }
        }
    }
  });
}

}  // namespace cnnjax
