// The gradients of convolution, bias, ReLU and pool.
#include <array>
#include <type_traits>
#include <vector>

#include "conv_tiles.h"
#include "conv_image.h"

namespace cnnjax {
namespace {

// The gradient before ReLU of row r of the convolution, from what belongs to the row's image.
void unpool_row(const Conv& s, int64_t r, const float* g, const void* kept, Kind kind, float* dz) {
  const int64_t width = s.conv_columns(), rows = s.rows(), columns = s.columns(), co = s.co;
  if (!s.pool_stride) {
    const int64_t o = r * width * co;
    auto through = [&](auto y) {
      for (int64_t i = o; i < o + width * co; i += kLanes, dz += kLanes) store(dz, keep(less(Vec{}, load(y + i)), load(g + i)));
    };
    if (kind == Kind::kBfloat16) through(static_cast<const uint16_t*>(kept));
    else through(static_cast<const float*>(kept));
    return;
  }
  const uint8_t* code = static_cast<const uint8_t*>(kept);
  if (s.pool_stride == 2) {
    for (int64_t q = 0; q < width; ++q)
      for (int64_t c = 0; c < co; c += kLanes, dz += kLanes) {
        const int64_t o = (r / 2 * columns + q / 2) * co + c;
        const bool seen = r / 2 < rows && q / 2 < columns;
        store(dz, seen ? keep(is(load_codes(code + o), (r & 1) * 2 + (q & 1)), load(g + o)) : Vec{});
      }
    return;
  }
  // Window (i, q) sends to pixels q and q + 1 of row i, by its positions 0 and 1, and of the row below, by 2 and 3.
  auto add = [&](auto above, auto below) {
    for (int64_t c = 0; c < co; c += kLanes) {
      Vec right{};
      for (int64_t q = 0; q < columns; ++q) {
        const int64_t o = (r * columns + q) * co + c, up = o - columns * co;
        Vec left = right;
        right = Vec{};
        if constexpr (below) {
          const Codes codes = load_codes(code + o);
          const Vec window = load(g + o);
          left = add_where(is(codes, 0), left, window), right = keep(is(codes, 1), window);
        }
        if constexpr (above) {
          const Codes codes = load_codes(code + up);
          const Vec window = load(g + up);
          left = add_where(is(codes, 2), left, window), right = add_where(is(codes, 3), right, window);
        }
        store(dz + q * co + c, left);
      }
      store(dz + columns * co + c, right);
    }
  };
  constexpr std::true_type yes{};
  constexpr std::false_type no{};
  if (r && r < rows) add(yes, yes);
  else if (r) add(yes, no);
  else add(no, yes);
}

// The same for a pool of stride 2, as pairs of pixels, which are the two of a window; sum[c] += all of them.
template <typename M>
void unpool_pairs(const Conv& s, int64_t r, const float* g, const uint8_t* code, int64_t pairs, char* dz, float* sum) {
  const int64_t columns = r / 2 < s.rows() ? s.columns() : 0, position = r % 2 * 2;
  for (int64_t c = 0; c < s.co; c += kLanes) {
    Vec total{};
    for (int64_t q = 0; q < pairs; ++q) {
      const int64_t o = (r / 2 * s.columns() + q) * s.co + c;
      const Vec left = q < columns ? keep(is(load_codes(code + o), position), load(g + o)) : Vec{};
      const Vec right = q < columns ? keep(is(load_codes(code + o), position + 1), load(g + o)) : Vec{};
      total += left + right;
      store_pairs<M>(dz + (q * s.co + c) * 4, left, right);
    }
    store(sum + c, load(sum + c) + total);
  }
}

// The gradient of kTaps taps x 16 channels in each of kRows kernel rows, summed over a band.
template <typename M, int kChannels, int kTaps, int kRows>
void weight_tile(const char* x, int64_t x_row, int64_t channels, const char* dz, int64_t z_row, int64_t co, int64_t rows,
                 int64_t steps, float* dw) {
  const int64_t x_step = (kChannels ? kChannels : channels) * 4 * M::kPack;  // to the next pixel, or pair of pixels
  Vec sum[kRows * kTaps][kVecs] = {};  // of this band alone: short chains of additions round less
  for (int64_t r = 0; r < rows; ++r, x += x_row, dz += z_row) {
    const char *x_now = x, *z_now = dz;
    for (int64_t q = 0; q < steps; ++q, x_now += x_step, z_now += co * 4) {
      Vec z[kVecs];
      UNROLL for (int v = 0; v < kVecs; ++v) z[v] = load(reinterpret_cast<const float*>(z_now) + v * kLanes);
      UNROLL for (int t = 0; t < kRows * kTaps; ++t)
        UNROLL for (int v = 0; v < kVecs; ++v)
          sum[t][v] = M::multiply_add(sum[t][v], z[v], x_now + t / kTaps * x_row + t % kTaps * 4);
    }
  }
  UNROLL for (int t = 0; t < kRows * kTaps; ++t)
    UNROLL for (int v = 0; v < kVecs; ++v) {
      float* to = dw + t * kBlock + v * kLanes;
      store(to, load(to) + sum[t][v]);
    }
}

// All taps of a kernel row and a block, in tiles of at most kTaps.
template <typename M, int kChannels, int kTaps = kTileTaps>
void weight_taps(const char* x, int64_t x_row, int64_t ci, const char* dz, int64_t z_row, int64_t co, int64_t rows,
                 int64_t steps, int64_t taps, float* dw) {
  for (; taps >= kTaps; taps -= kTaps, x += kTaps * 4, dw += kTaps * kBlock)
    weight_tile<M, kChannels, kTaps, 1>(x, x_row, ci, dz, z_row, co, rows, steps, dw);
  if constexpr (kTaps > 1)
    if (taps) weight_taps<M, kChannels, kTaps / 2>(x, x_row, ci, dz, z_row, co, rows, steps, taps, dw);
}

// dw as [block][3][3 * ci][16].
template <typename M>
void weight_band(const char* x, int64_t x_row, int64_t ci, const char* dz, int64_t z_row, int64_t co, int64_t rows,
                 int64_t steps, float* dw) {
  const auto taps = ci == 16   ? weight_taps<M, 16>
                    : ci == 32 ? weight_taps<M, 32>
                    : ci == 64 ? weight_taps<M, 64>
                               : weight_taps<M, 0>;
  for (int64_t block = 0; block < co; block += kBlock, dz += kBlock * 4) {
    if constexpr (kTileTaps >= 24)
      if (ci == 3) {  // colours: all 27 taps at once
        weight_tile<M, 3, 9, 3>(x, x_row, ci, dz, z_row, co, rows, steps, dw);
        dw += 27 * kBlock;
        continue;
      }
    for (int row = 0; row < 3; ++row, dw += 3 * ci * kBlock)
      taps(x + row * x_row, x_row, ci, dz, z_row, co, rows, steps, 3 * ci, dw);
  }
}

// The same of transformed images v and gradients z, `steps` words of each frequency: dw as [block][frequencies][ci][16].
template <typename M, typename T>
void weight_frequencies(const char* v, int64_t v_step, int64_t ci, const char* z, int64_t z_step, int64_t co, int64_t steps,
                        float* dw) {
  constexpr int kTaps = kTileTaps < kBlock ? 4 : kBlock;
  for (int64_t block = 0; block < co; block += kBlock)
    for (int f = 0; f < T::kFrequencies; ++f)
      for (int64_t i = 0; i < ci; i += kTaps, dw += kTaps * kBlock)
        weight_tile<M, 0, kTaps, 1>(v + f * v_step + i * 4, 0, ci / M::kPack, z + f * z_step + block * 4, 0, co, 1, steps, dw);
}

// sum[c] += row[q][c] over all q, in four chains that do not wait for each other.
void add_columns(const float* row, int64_t width, int64_t co, float* sum) {
  for (int64_t c = 0; c < co; c += kLanes) {
    Vec part[4] = {};
    int64_t q = 0;
    for (; q + 4 <= width; q += 4)
      UNROLL for (int j = 0; j < 4; ++j) part[j] += load(row + (q + j) * co + c);
    for (; q < width; ++q) part[0] += load(row + q * co + c);
    store(sum + c, load(sum + c) + ((part[0] + part[1]) + (part[2] + part[3])));
  }
}

// Brings what is read soon to the second-level cache.
void fetch(const char* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// Tiles for whose products sums are kept in registers.
template <typename T>
constexpr int64_t kSummedTiles = 2048 / T::kFrequencies;

// So many bytes and a few, for frequencies not to compete for places in the first-level cache.
int64_t odd_lines(int64_t bytes) { return (bytes / 64 | 1) * 64; }

template <typename M, typename T>
Backward prepare(const Conv& s, const float* w, Kind kind, bool wanted) {  // wanted: dx
  constexpr bool rounded = M::kPack == 2 && !kTiled<T>;  // tiles round what they have transformed
  const int64_t taps = 9 * s.ci, out = blocks(s.ci) * kBlock;
  const bool halved = s.pool_stride == 2;  // then an odd row or column at the end has no gradient
  const int64_t height = halved ? 2 * s.rows() : s.conv_rows(), width = s.conv_columns();
  const int64_t z_padding = wanted ? 2 - s.padding : 0;     // of the convolution that gives dx
  const int64_t steps = (width + M::kPack - 1) / M::kPack;  // pixels, or pairs of pixels, in a row of dz
  const int64_t z_edge = z_padding * s.co, z_wide = width * s.co + 2 * z_edge;
  const int64_t x_row = s.padded_row() * 4, z_row = rounded ? z_wide * 2 : z_wide * 4;  // bytes
  const int64_t pair_row = rounded ? steps * s.co * 4 : z_row;
  std::vector<float> weights;
  if constexpr (kTiled<T>) weights = pack_tiles<M, T>(w, s.ci, s.co, s.scale, true);
  else if (wanted) weights = pack_weights<M>(w, s.ci, s.co, s.scale, true);
  const ConvTile* tiles = choose_tiles<M>(s.co);
  const int64_t x_line = s.w * s.ci * bytes_of(s.in);
  const int64_t rows = band_rows(std::max(s.padded_row(), z_wide), s.h);
  const bool in_place = M::kPack == 1 && !s.padding && s.in == Kind::kFloat;

  auto add_image = [=, weights = std::move(weights)](const void* x, const void* kept, const float* g, float* dx, float* sum_w,
                                                     float* sum_b, [[maybe_unused]] float* frequencies) {
    for (int64_t i0 = 0; i0 < s.h; i0 += rows) {
      // Rows [i0, i1) of dx need rows [z0, z1) of dz, of which [i0, i0 + own) are this band's for dw and db.
      const int64_t i1 = std::min(s.h, i0 + rows), z0 = i0 - z_padding, z1 = wanted ? i1 + 2 - z_padding : i1;
      const int64_t own = std::max<int64_t>(0, std::min(i1, height) - i0);
      char* z_taps = scratch_bytes(Scratch::kGradient, z_row * (z1 - z0) + s.co * 4);
      char* z_pairs = rounded ? scratch_bytes(Scratch::kGradientPairs, pair_row * own)
                               : z_taps + z_padding * z_row + z_edge * 4;
      for (int64_t r = z0; r < z1; ++r) {
        char* z = z_taps + (r - z0) * z_row;
        if (kTiled<T> && r >= i0 && r < i1) fetch(static_cast<const char*>(x) + r * x_line, x_line);
        if (r < 0 || r >= height) {
          std::memset(z, 0, z_row);
          continue;
        }
        if (rounded && !wanted && s.pool_stride == 2) {
          unpool_pairs<M>(s, r, g, static_cast<const uint8_t*>(kept), steps, z_pairs + (r - i0) * pair_row, sum_b);
          continue;
        }
        float* line = rounded ? scratch(Scratch::kLine, z_wide + s.co) : reinterpret_cast<float*>(z);
        float* middle = line + z_edge;
        std::fill_n(line, z_edge, 0.f);
        unpool_row(s, r, g, kept, kind, middle);
        std::fill_n(middle + width * s.co, rounded ? std::max(z_edge, s.co) : z_edge, 0.f);
        const bool mine = r >= i0 && r < i0 + own;
        if (mine) add_columns(middle, width, s.co, sum_b);
        if (rounded && wanted) to_taps<M>(line, z_wide, z);
        if (rounded && mine)
          for (int64_t q = 0; q < steps; ++q)
            to_pairs<M>(middle + 2 * q * s.co, middle + (2 * q + 1) * s.co, s.co,
                        z_pairs + (r - i0) * pair_row + q * s.co * 4);
      }
      if constexpr (kTiled<T>) {
        constexpr int64_t kOut = T::kOut;
        const float *zeros = zero_row(std::max(s.w * s.ci, z_wide)), *z_rows = reinterpret_cast<const float*>(z_taps);
        // In dw the image stands still and its gradient slides, as in dx: the frequencies z serve both.
        const auto weight_rows = s.in == Kind::kBfloat16 ? weight_tiles<M, T, uint16_t> : weight_tiles<M, T, float>;
        const int64_t count = tiles_in<T>(s.w), words = (count + M::kPack - 1) / M::kPack;
        const int64_t most = std::max<int64_t>(1, kSummedTiles<T> / count);  // rows of tiles
        const int64_t v_step = odd_lines(most * words * s.ci * 4), z_step = odd_lines(most * words * s.co * 4);
        char* v = scratch_bytes(Scratch::kImageTiles, T::kFrequencies * v_step);
        char* z = scratch_bytes(Scratch::kGradientTiles, T::kFrequencies * z_step);
        for (int64_t begin = i0; begin < i1; begin += most * kOut) {
          const int64_t end = std::min(i1, begin + most * kOut);
          for (int64_t i = begin; i < end; i += kOut) {
            const int64_t at = (i - begin) / kOut * words * 4;
            std::array<const void*, 2 * kOut> x_rows;
            for (int64_t k = 0; k < 2 * kOut; ++k)
              x_rows[k] = i + k < s.h ? static_cast<const char*>(x) + (i + k) * x_line : reinterpret_cast<const char*>(zeros);
            weight_rows(x_rows.data(), s.w, s.ci, v + at * s.ci, v_step);
            auto row = [&](int64_t k) { return z0 + i - i0 + k < z1 ? z_rows + (i - i0 + k) * z_wide : zeros; };
            Strip<T> strip{{}, {}, 0, s.w + 2};
            for (int k = 0; k < T::kIn; ++k) strip.rows[k] = row(k);
            for (int k = 0; k < kOut; ++k) strip.next[k] = row(T::kIn + k);
            auto fill = [&](int64_t first, int64_t tiles, char* to) {
              gradient_product_tiles<M, T>(strip, s.co, kOut * first, tiles, to, z + (at + first / M::kPack * 4) * s.co, z_step);
            };
            float* to = dx + i * s.w * s.ci;
            conv_rows<M, T>(s.co, weights.data(), s.ci, nullptr, count, fill,
                            put_rows<kOut>([=](int64_t k) { return to + k * s.w * s.ci; }, i1 - i, s.w, s.ci));
          }
          weight_frequencies<M, T>(v, v_step, s.ci, z, z_step, s.co, ((end - begin + kOut - 1) / kOut) * words, frequencies);
        }
        continue;
      }
      if (own) {
        const char* in = static_cast<const char*>(x) + i0 * x_row;
        if (!in_place) {
          char* copy = scratch_bytes(Scratch::kInput, x_row * (own + 2) + s.ci * 4);
          load_rows<M, true>(s, x, i0 - s.padding, i0 - s.padding + own + 2, copy);
          std::memset(copy + x_row * (own + 2), 0, s.ci * 4);  // the pixel beyond
          in = copy;
        }
        weight_band<M>(in, x_row, s.ci, z_pairs, pair_row, s.co, own, steps, sum_w);
      }
      if (!wanted) continue;
      for (int64_t i = i0; i < i1; ++i) {
        float* row = dx + i * s.w * s.ci;
        float* padded = out == s.ci ? row : scratch(Scratch::kPadded, s.w * out);
        conv_row<M>(tiles, z_taps + (i - i0) * z_row, z_row, s.co, weights.data(), out, nullptr, s.w, padded);
        if (padded != row)
          for (int64_t q = 0; q < s.w; ++q) std::copy_n(padded + q * out, s.ci, row + q * s.ci);
      }
    }
  };
  if constexpr (kTiled<T>) {
    auto finish = [=](const float* frequencies, float* sum_w) {
      for (int64_t block = 0; block < s.co; block += kBlock, frequencies += T::kFrequencies * s.ci * kBlock)
        for (int64_t i = 0; i < s.ci; ++i)
          for (int64_t c = 0; c < kBlock; c += kLanes)
            kernel_gradient<T>(frequencies + i * kBlock + c, s.ci * kBlock, [&](int row, int column, Vec sum) {
              store(sum_w + block * taps + ((8 - row * 3 - column) * s.ci + i) * kBlock + c, sum);
            });
    };
    return {T::kFrequencies * s.ci * s.co, std::move(add_image), finish};
  } else {
    return {0, std::move(add_image), nullptr};
  }
}

}  // namespace

Backward prepare_backward(const Conv& conv, const float* w, Kind kind, bool input_gradient) {
  auto call = [&](auto m, auto tiles) {
    using M = decltype(m);
    return input_gradient ? prepare<M, decltype(tiles)>(conv, w, kind, true) : prepare<M, NoTiles>(conv, w, kind, false);
  };
  return conv.bfloat16 ? choose<Bfloat16>(conv, call) : choose<Float32>(conv, call);
}

}  // namespace cnnjax
