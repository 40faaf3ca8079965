#include <vector>

#include "linked_reads.h"
#include "memory.h"

namespace cnnjax {
namespace {

constexpr int64_t kPart = 16 * 1024;  // numbers
constexpr int64_t kFew = 4 * 1024;    // numbers that stay in the first-level cache
constexpr int64_t kSums = 64;         // parts at most that sums are made in: each costs some to write and to add

// Sums that are added to again and again lie in vectors of their own: where channels are no multiple, the last two have channels in common.
int64_t padded(int64_t channels) { return ceil_div(channels, kLanes) * kLanes; }
int64_t place(int64_t c) { return padded(c); }

}  // namespace

void last_norm(const Pool& pool, const Images& s, const float* x, const Normed& norm, const float* more, float* y) {
  const int64_t channels = s.channels;
  const Parts parts(s.images * s.pixels, kPart / channels);
  parallel_for(pool, parts.parts, [&](int64_t part) {
    const int64_t begin = parts.begin(part), count = parts.end(part) - begin;
    const float* from = x + begin * channels;
    float* to = y + begin * channels;
    for_channels(0, channels, [&](int64_t c, auto wide) {
      if (!more) return read_input<wide>(norm, from, channels, count, c, to + c, channels);
      const Own<wide> own(norm, c);
      const float* add = more + begin * channels;
      for (int64_t i = c; i < count * channels; i += channels)
        UNROLL for (int v = 0; v < wide; ++v)
          store(to + i + v * kLanes, activated(norm.activation, own(load(from + i + v * kLanes), v) + load(add + i + v * kLanes)));
    });
  });
}

void last_norm_backward(const Pool& pool, const Images& s, const float* x, const Normed& norm, const float* g, const float* more,
                     const Outgoing& out) {
  const int64_t channels = s.channels, rows = s.images * s.pixels;
  const Parts parts(rows, std::max(kPart / channels, ceil_div(rows, kSums)));
  const int64_t width = padded(channels);
  std::vector<float> sums(parts.parts * 2 * width);
  parallel_for(pool, parts.parts, [&](int64_t part) {
    float* own_sums = sums.data() + part * 2 * width;
    for (int64_t begin = parts.begin(part); begin < parts.end(part);) {  // rows of one image, few enough for the first-level cache
      const int64_t image = begin / s.pixels;
      const int64_t end = std::min({parts.end(part), (image + 1) * s.pixels, begin + std::max<int64_t>(1, kFew / channels)});
      for_channels(0, channels, [&](int64_t c, auto wide) {
        const Own<wide> own(norm, c);
        float *along = own_sums + place(c), *offset = along + width;
        Vec a[wide], b[wide], factor[wide], extra[wide];
        UNROLL for (int v = 0; v < wide; ++v) {
          const int64_t i = c + v * kLanes;
          a[v] = load(along + v * kLanes), b[v] = load(offset + v * kLanes);
          factor[v] = norm.gate ? load(norm.gate + image * channels + i) : Vec{} + 1.f;
          extra[v] = norm.gate ? load(more + image * channels + i) : Vec{};
        }
        with(norm.activation, [&](auto kind) __attribute__((always_inline)) {
          for (int64_t i = begin * channels + c; i < end * channels; i += channels)
            UNROLL for (int v = 0; v < wide; ++v) {
              const Vec value = load(x + i + v * kLanes);
              const Vec z = through(kind, own(value, v), load(g + i + v * kLanes) * factor[v] + extra[v]);
              a[v] += z * (value - own.mean[v]), b[v] += z;
              store(out.dx + i + v * kLanes, z * own.scale[v]);
            }
        });
        UNROLL for (int v = 0; v < wide; ++v) store(along + v * kLanes, a[v]), store(offset + v * kLanes, b[v]);
      });
      begin = end;
    }
  });
  for_channels(0, channels, [&](int64_t c, auto wide) {
    UNROLL for (int v = 0; v < wide; ++v) {
      Vec a{}, b{};
      for (int64_t part = 0; part < parts.parts; ++part) {
        const float* own = sums.data() + part * 2 * width + place(c) + v * kLanes;
        a += load(own), b += load(own + width);
      }
      store(out.along + c + v * kLanes, a), store(out.offset + c + v * kLanes, b);
    }
  });
}

void squeeze(const Pool& pool, const Images& s, const float* x, const Normed& norm, float* y) {
  const int64_t channels = s.channels, few = std::max<int64_t>(1, kFew / channels);
  parallel_for(pool, s.images, [&](int64_t image) {
    const float* from = x + image * s.pixels * channels;
    float* sums = scratch(Scratch::kSums, padded(channels));
    std::fill_n(sums, padded(channels), 0.f);
    for (int64_t begin = 0; begin < s.pixels; begin += few)
      for_channels(0, channels, [&](int64_t c, auto wide) {
        const Own<wide> own(norm, c);
        float* to = sums + place(c);
        Vec sum[wide] = {};
        with(norm.activation, [&](auto kind) __attribute__((always_inline)) {
          for (int64_t i = begin * channels + c; i < std::min(s.pixels, begin + few) * channels; i += channels)
            UNROLL for (int v = 0; v < wide; ++v) sum[v] += activated(kind, own(load(from + i + v * kLanes), v));
        });
        UNROLL for (int v = 0; v < wide; ++v) store(to + v * kLanes, load(to + v * kLanes) + sum[v]);
      });
    for_channels(0, channels, [&](int64_t c, auto wide) {
      UNROLL for (int v = 0; v < wide; ++v) store(y + image * channels + c + v * kLanes, load(sums + place(c) + v * kLanes) / float(s.pixels));
    });
  });
}

}  // namespace cnnjax
