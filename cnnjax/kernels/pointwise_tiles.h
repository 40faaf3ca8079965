// What products over single pixels have in common: blocks of channels, weights in their order, and tiles.
#pragma once

#include <array>

#include "memory.h"
#include "pointwise.h"
#include "product.h"

namespace cnnjax {
namespace {

// Blocks of 16 channels; where channels are no multiple, the last two overlap. One job computes both, so that no number is
// written by two.
struct Blocks {
  int64_t channels;
  int64_t whole() const { return channels / kBlock; }
  int64_t count() const { return ceil_div(channels, kBlock); }
  int64_t start(int64_t block) const { return std::min(block * kBlock, channels - kBlock); }
  int64_t end(const Parts& parts, int64_t part) const { return part + 1 == parts.parts ? count() : parts.end(part); }
};

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
}  // namespace cnnjax
