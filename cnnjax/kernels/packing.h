// Weights of 3x3 convolutions in the order in which their tiles want them.
#pragma once

#include <algorithm>
#include <vector>

#include "vector.h"
#include "winograd.h"

namespace cnnjax {
namespace {

template <typename M>
int64_t words_in_kernel_row(int64_t channels) {
  return (3 * channels + M::kPack - 1) / M::kPack;
}

// scale * w as words [block][3][taps of a kernel row][16]; flipped: for the gradient of the input, with zeros where ci is
// no multiple of 16.
template <typename M>
std::vector<float> pack_weights(const float* w, int64_t ci, int64_t co, float scale, bool flipped) {
  const int64_t in = flipped ? co : ci, out = flipped ? ci : co, words = words_in_kernel_row<M>(in);
  std::vector<float> packed(blocks(out) * 3 * words * kBlock);
  float* word = packed.data();
  auto fetch = [&](int64_t block, int64_t row, int64_t k, float* values) {
    std::fill_n(values, kBlock, 0.f);
    if (k >= 3 * in) return;
    const int64_t tap = row * 3 + k / in, i = k % in, o = block * kBlock, count = std::min<int64_t>(kBlock, out - o);
    const float* from = flipped ? w + ((8 - tap) * ci + o) * co + i : w + (tap * ci + i) * co + o;
    for (int64_t j = 0; j < count; ++j) values[j] = scale * from[flipped ? j * co : j];
  };
  for (int64_t block = 0; block < blocks(out); ++block)
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t k = 0; k < words; ++k, word += kBlock) {
        fetch(block, row, k * M::kPack, word);
        if constexpr (M::kPack == 2) {
          float second[kBlock];
          fetch(block, row, k * 2 + 1, second);
          for (int j = 0; j < kBlock; ++j) {
            const uint32_t pair = bfloat16_bits(word[j]) | bfloat16_bits(second[j]) << 16;
            std::memcpy(word + j, &pair, 4);
          }
        }
      }
  return packed;
}

// scale * w as words [block][kIn rows of frequencies][inputs][kIn][16]; flipped as above.
template <typename M, typename T>
std::vector<float> pack_tiles(const float* w, int64_t ci, int64_t co, float scale, bool flipped) {
  const int64_t in = flipped ? co : ci, out = flipped ? ci : co, words = in / M::kPack;
  std::vector<float> packed(T::kFrequencies * words * out);
  for (int64_t o = 0; o < out; o += kLanes)
    for (int64_t i = 0; i < in; i += M::kPack) {
      Vec tile[M::kPack][T::kFrequencies];
      for (int p = 0; p < M::kPack; ++p) {
        auto kernel = [&](int row, int column) {
          if (!flipped) return scale * load(w + ((row * 3 + column) * ci + i + p) * co + o);
          Vec values;
          for (int j = 0; j < kLanes; ++j) values[j] = scale * w[((8 - row * 3 - column) * ci + o + j) * co + i + p];
          return values;
        };
        kernel_tile<T>(kernel, [&](int frequency, Vec word) { tile[p][frequency] = word; });
      }
      for (int f = 0; f < T::kFrequencies; ++f) {
        const int64_t word = ((o / kBlock * T::kIn + f / T::kIn) * words + i / M::kPack) * T::kIn + f % T::kIn;
        char* to = reinterpret_cast<char*>(packed.data() + word * kBlock + o % kBlock);
        store_pairs<M>(to, tile[0][f], tile[M::kPack - 1][f]);
      }
    }
  return packed;
}

}  // namespace
}  // namespace cnnjax
