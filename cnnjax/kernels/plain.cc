#include "plain.h"

#include <optional>

#include "gathered.h"
#include "memory.h"
#include "pointwise.h"
#include "product.h"
#include "vector.h"
#include "winograd.h"

namespace cnnjax {
namespace {

constexpr int64_t kOwn = 112 * 1024;      // numbers that a thread keeps in its second-level cache
constexpr int64_t kShared = 1024 * 1024;  // numbers that all threads read from the cache they share
constexpr int kFrequencies = Tiles2::kFrequencies;

// ---- 3x3, stride 1: in tiles of 2x2 outputs, see winograd.h; those of all images one after the other.

struct Tiles {
  int64_t n, h, w;

  int64_t across() const { return tiles_in<Tiles2>(w); }
  int64_t each() const { return tiles_in<Tiles2>(h) * across(); }
  int64_t count() const { return n * each(); }
};

// Where the kSize x kSize pixels of a tile are, from (-kEdge, -kEdge) on; `none` where there are none.
template <int kSize, int kEdge, typename Float>
void locate(const Tiles& s, Float* x, int64_t channels, int64_t tile, Float* none, Float** at) {
  const int64_t n = tile / s.each(), top = tile % s.each() / s.across() * 2 - kEdge, left = tile % s.across() * 2 - kEdge;
  for (int64_t i = top; i < top + kSize; ++i)
    for (int64_t j = left; j < left + kSize; ++j)
      *at++ = i < 0 || j < 0 || i >= s.h || j >= s.w ? none : x + ((n * s.h + i) * s.w + j) * channels;
}

// Tiles [begin, end) to 16 frequencies, `step` numbers apart, of rows `row` numbers apart.
void to_frequencies(const Tiles& s, const float* x, int64_t channels, int64_t begin, int64_t end, const float* zeros, float* v,
                    int64_t step, int64_t row) {
  for (int64_t t = begin; t < end; ++t, v += row) {
    const float* at[16];
    locate<4, 1>(s, x, channels, t, zeros, at);
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec half[4][4];
      UNROLL for (int j = 0; j < 4; ++j) {
        const Vec a = load(at[j] + c), b = load(at[4 + j] + c), d = load(at[8 + j] + c), e = load(at[12 + j] + c);
        half[0][j] = a - d, half[1][j] = b + d, half[2][j] = d - b, half[3][j] = b - e;
      }
      UNROLL for (int i = 0; i < 4; ++i) {
        float* to = v + 4 * i * step + c;
        store(to, half[i][0] - half[i][2]), store(to + step, half[i][1] + half[i][2]);
        store(to + 2 * step, half[i][2] - half[i][1]), store(to + 3 * step, half[i][1] - half[i][3]);
      }
    }
  }
}

// Gradients of tiles [begin, end) to z, of each frequency [block][tiles][16].
void gradients_to_frequencies(const Tiles& s, const float* g, int64_t channels, int64_t begin, int64_t end, const float* zeros,
                              float* z, int64_t step, int64_t block_step) {
  for (int64_t t = begin; t < end; ++t, z += kBlock) {
    const float* at[4];
    locate<2, 0>(s, g, channels, t, zeros, at);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Vec a = load(at[0] + c), b = load(at[1] + c), d = load(at[2] + c), e = load(at[3] + c);
      const Vec left[4] = {a, a + d, a - d, -d}, right[4] = {b, b + e, b - e, -e};
      float* to = z + c / kBlock * block_step + c % kBlock;
      UNROLL for (int i = 0; i < 4; ++i, to += 4 * step) {
        store(to, left[i]), store(to + step, left[i] + right[i]);
        store(to + 2 * step, left[i] - right[i]), store(to + 3 * step, -right[i]);
      }
    }
  }
}

// Sums of 16 frequencies, [tiles][16] each, to a block of channels of tiles [begin, end) of y.
void from_frequencies(const Tiles& s, const float* sums, int64_t step, int64_t begin, int64_t end, int64_t channels, float* y) {
  for (int64_t t = begin; t < end; ++t, sums += kBlock) {
    float* at[4];
    locate<2, 0, float>(s, y, channels, t, nullptr, at);
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      Vec top[4], bottom[4];
      UNROLL for (int j = 0; j < 4; ++j) {
        const float* from = sums + j * step + c;
        const Vec a = load(from), b = load(from + 4 * step), d = load(from + 8 * step), e = load(from + 12 * step);
        top[j] = a + b + d, bottom[j] = b - d - e;
      }
      store(at[0] + c, top[0] + top[1] + top[2]);
      if (at[1]) store(at[1] + c, top[1] - top[2] - top[3]);
      if (at[2]) store(at[2] + c, bottom[0] + bottom[1] + bottom[2]);
      if (at[3]) store(at[3] + c, bottom[1] - bottom[2] - bottom[3]);
    }
  }
}

// The weights of a block of 16 outputs as [16 frequencies][inputs][16]; flipped: of the gradient of the inputs, whose outputs
// are the ci.
void pack_block(const float* w, int64_t ci, int64_t co, bool flipped, int64_t block, float* packed) {
  const int64_t in = flipped ? co : ci, step = in * kBlock;
  for (int64_t c = 0; c < kBlock; c += kLanes) {
    const int64_t o = block * kBlock + c;
    auto put = [&](int64_t i, const auto& kernel) {
      kernel_tile<Tiles2>(kernel, [&](int frequency, Vec word) { store(packed + frequency * step + i * kBlock + c, word); });
    };
    if (!flipped) {
      for (int64_t i = 0; i < in; ++i) put(i, [&](int row, int column) { return load(w + ((row * 3 + column) * ci + i) * co + o); });
      continue;
    }
    for (int64_t i = 0; i < in; i += kLanes) {
      Vec taps[9][kLanes];
      for (int tap = 0; tap < 9; ++tap) {
        for (int lane = 0; lane < kLanes; ++lane) taps[tap][lane] = load(w + ((8 - tap) * ci + o + lane) * co + i);
        transpose(taps[tap]);
      }
      for (int lane = 0; lane < kLanes; ++lane) put(i + lane, [&](int row, int column) { return taps[row * 3 + column][lane]; });
    }
  }
}

// y, or with `flipped` weights the gradient of x from that of y.
void winograd(const Pool& pool, const Tiles& s, const float* x, const float* w, int64_t ci, int64_t co, bool flipped, float* y) {
  const int64_t in = flipped ? co : ci, out = flipped ? ci : co, count = s.count(), blocks = out / kBlock;
  const int64_t row = spread(in), packed_size = kFrequencies * in * kBlock;
  const std::vector<float> zeros(in);

  auto compute = [&](const float* v, int64_t v_step, int64_t begin, int64_t end, const float* packed, int64_t block) {
    const int64_t rows = end - begin, step = spread(rows * kBlock);
    float* sums = scratch(Scratch::kSums, kFrequencies * step);
    for (int f = 0; f < kFrequencies; ++f)
      product(v + f * v_step, row, rows, in, packed + f * in * kBlock, sums + f * step);
    from_frequencies(s, sums, step, begin, end, out, y + block * kBlock);
  };

  auto pack_all = [&](float* to) {
    parallel_for(pool, blocks, [&](int64_t block) { pack_block(w, ci, co, flipped, block, to + block * packed_size); });
  };

  if (count < out) {  // more weights than tiles: each block's are laid out where they are used
    const int64_t step = spread(count * row);
    const Memory v(kFrequencies * step);
    const Parts few(count, 8), ranges(count, 64);
    parallel_for(pool, few.parts, [&](int64_t job) {
      to_frequencies(s, x, in, few.begin(job), few.end(job), zeros.data(), v.get() + few.begin(job) * row, step, row);
    });
    if (pool.threads > blocks) {  // threads share the tiles of a block
      const Memory packed(blocks * packed_size);
      pack_all(packed.get());
      const Parts shares(count, std::max<int64_t>(kTilePixels, ceil_div(count, ceil_div(pool.threads, blocks))));
      parallel_for(pool, blocks * shares.parts, [&](int64_t job) {
        const int64_t block = job / shares.parts, begin = shares.begin(job % shares.parts), end = shares.end(job % shares.parts);
        compute(v.get() + begin * row, step, begin, end, packed.get() + block * packed_size, block);
      });
      return;
    }
    parallel_for(pool, blocks, [&](int64_t block) {
      float* packed = scratch(Scratch::kTiles, packed_size);
      pack_block(w, ci, co, flipped, block, packed);
      for (int64_t r = 0; r < ranges.parts; ++r)
        compute(v.get() + ranges.begin(r) * row, step, ranges.begin(r), ranges.end(r), packed, block);
    });
    return;
  }
  const Memory packed(blocks * packed_size);
  pack_all(packed.get());
  const Parts ranges(count, std::clamp<int64_t>(kOwn / kFrequencies / row, kTilePixels, 4 * kTilePixels));
  const Parts channels = channel_parts(blocks, ranges.parts, pool.threads);
  parallel_for(pool, ranges.parts * channels.parts, [&](int64_t job) {
    const int64_t begin = ranges.begin(job / channels.parts), end = ranges.end(job / channels.parts);
    const int64_t part = job % channels.parts, step = spread((end - begin) * row);
    float* v = scratch(Scratch::kInput, kFrequencies * step);
    to_frequencies(s, x, in, begin, end, zeros.data(), v, step, row);
    for (int64_t block = channels.begin(part); block < channels.end(part); ++block)
      compute(v, step, begin, end, packed.get() + block * packed_size, block);
  });
}

void winograd_weights(const Pool& pool, const Tiles& s, const float* x, const float* g, int64_t ci, int64_t co, float* dw) {
  const int64_t row = spread(ci), blocks = co / kBlock, wide = ci % 32 ? 16 : 32, columns = ci / wide;
  const Parts chunks(s.count(), kShared / kFrequencies / row);
  const int64_t largest = chunks.largest(), v_step = spread(largest * row), block_step = largest * kBlock;
  const int64_t z_step = spread(blocks * block_step);
  const int64_t jobs = columns * blocks, size = wide * kBlock;
  const Memory v(kFrequencies * v_step), z(kFrequencies * z_step);
  std::optional<Memory> shared;  // for threads to share the frequencies of a job
  if (jobs < pool.threads) shared.emplace(jobs * kFrequencies * size);
  const std::vector<float> zeros(std::max(ci, co));
  for (int64_t chunk = 0; chunk < chunks.parts; ++chunk) {
    const int64_t first = chunks.begin(chunk), rows = chunks.end(chunk) - first;
    const Parts few(rows, 8);
    parallel_for(pool, few.parts, [&](int64_t job) {
      const int64_t begin = few.begin(job), end = few.end(job);
      to_frequencies(s, x, ci, first + begin, first + end, zeros.data(), v.get() + begin * row, v_step, row);
      gradients_to_frequencies(s, g, co, first + begin, first + end, zeros.data(), z.get() + begin * kBlock, z_step, block_step);
    });
    auto add = [&](int64_t job, int64_t f, float* to) {
      std::fill_n(to, size, 0.f);
      transposed_product(v.get() + f * v_step + job / blocks * wide, row, rows, wide, z.get() + f * z_step + job % blocks * block_step, to);
    };
    if (shared)
      parallel_for(pool, jobs * kFrequencies, [&](int64_t task) { add(task / kFrequencies, task % kFrequencies, shared->get() + task * size); });
    parallel_for(pool, jobs, [&](int64_t job) {
      const int64_t begin = job / blocks * wide, block = job % blocks;
      float* sums = shared ? shared->get() + job * kFrequencies * size : scratch(Scratch::kSums, kFrequencies * size);
      if (!shared)
        for (int64_t f = 0; f < kFrequencies; ++f) add(job, f, sums + f * size);
      for (int64_t i = 0; i < wide; ++i)
        for (int64_t c = 0; c < kBlock; c += kLanes)
          kernel_gradient<Tiles2>(sums + i * kBlock + c, size, [&](int r, int column, Vec sum) {
            float* to = dw + ((r * 3 + column) * ci + begin + i) * co + block * kBlock + c;
            store(to, chunk ? load(to) + sum : sum);
          });
    });
  }
}

bool in_tiles(const Plain& s) {
  return s.kernel == 3 && s.stride == 1 && s.ci % kBlock == 0 && s.top == 1 && s.bottom == 1 && s.left == 1 && s.right == 1;
}
Pointwise product_of(const Plain& s) { return {s.n * s.h * s.w, s.ci, s.co}; }

}  // namespace

bool is_product(const Plain& s) {
  return s.kernel == 1 && s.stride == 1 && s.ci % 4 == 0 && s.co % 4 == 0 && s.ci >= kBlock && s.co >= kBlock
         && !(s.top || s.bottom || s.left || s.right);
}

bool finishes(const Plain& s) { return !in_tiles(s); }

void plain_forward(const Pool& pool, const Plain& s, const float* x, const float* w, const Finish& after, float* y) {
  if (in_tiles(s)) return winograd(pool, {s.n, s.h, s.w}, x, w, s.ci, s.co, false, y);
  if (is_product(s)) return pointwise_forward(pool, product_of(s), x, w, false, after, y);
  gathered_forward(pool, s, x, w, after, y);
}

void plain_backward(const Pool& pool, const Plain& s, const float* x, const float* w, const float* g, float* dw, float* dx) {
  if (in_tiles(s)) {
    const Tiles tiles{s.n, s.h, s.w};
    winograd_weights(pool, tiles, x, g, s.ci, s.co, dw);
    if (dx) winograd(pool, tiles, g, w, s.ci, s.co, true, dx);
  } else if (is_product(s)) {
    pointwise_weights(pool, product_of(s), x, g, dw);
    if (dx) pointwise_forward(pool, {s.n * s.h * s.w, s.co, s.ci}, g, w, true, {}, dx);
  } else {
    gathered_weights(pool, s, x, g, dw);
    if (dx) gathered_inputs(pool, s, w, g, dx);
  }
}

}  // namespace cnnjax
