#include "conv.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "conv_image.h"
#include "vector.h"

namespace cnnjax {
namespace {

constexpr int64_t kPartialSums = int64_t(1) << 24;  // of all groups of images together, in numbers
constexpr int64_t kGroups = 32;                      // each costs sums to write and to add

// Image n of an array.
const char* image(const void* x, int64_t n, int64_t values, Kind kind) {
  return static_cast<const char*>(x) + n * values * bytes_of(kind);
}

// Two places for what lies between layers, an image each.
struct Between {
  explicit Between(int64_t values) : values_(values), data_(scratch(Scratch::kBetween, 2 * values)) {}
  float* operator[](int64_t layer) const { return data_ + layer % 2 * values_; }

 private:
  int64_t values_;
  float* data_;
};

// work(group, k, layer, between) for the k-th image of each group and its layers from the last to the first, where there are more
// threads than groups. An image comes to a layer when the one before it in its group has left it, so each sum has its order.
template <typename Work>
void share_groups(const Pool& pool, int64_t groups, int64_t most, int64_t layers, int64_t widest, const Work& work) {
  std::vector<std::atomic<int64_t>> left(groups * layers);  // how many images of a group have left a layer
  std::atomic<int64_t> next{0};  // images are taken in turn: the one before has been taken, so somebody works on it
  std::atomic<bool> failed{false};
  const int64_t images = groups * most;
  parallel_for(pool, std::min(pool.threads, images), [&](int64_t) {
    for (int64_t image; (image = next.fetch_add(1)) < images;)
      try {
        const Between between(widest);
        const int64_t group = image % groups, k = image / groups;
        for (int64_t i = layers - 1; i >= 0; --i) {
          auto& before = left[group * layers + i];
          for (int64_t turn = 0; before.load(std::memory_order_acquire) < k; ++turn) {
            if (failed) return;
            wait_a_turn(turn);
          }
          work(group, k, i, between);
          before.store(k + 1, std::memory_order_release);
        }
      } catch (const std::bad_alloc&) {
        failed = true;
        throw;
      }
  });
}

}  // namespace

bool keeps_rounded(bool bfloat16) { return bfloat16 && Bfloat16::kPack == 2; }

void forward(const Pool& pool, const Layer* layers, int64_t count, const void* x) {
  std::vector<Forward> parts;
  int64_t widest = 0;
  for (int64_t i = 0; i < count; ++i) {
    parts.push_back(prepare_forward(layers[i].conv, layers[i].w, layers[i].b));
    if (!layers[i].y) widest = std::max(widest, layers[i].conv.output());
  }
  auto codes = [&](int64_t i, int64_t n) { return layers[i].code ? layers[i].code + n * layers[i].conv.output() : nullptr; };
  auto keep = [&](int64_t i, int64_t n, const float* y) {
    const int64_t values = layers[i].conv.output();
    if (layers[i].rounded) to_taps<Bfloat16>(y, values, reinterpret_cast<char*>(layers[i].rounded + n * values));
  };
  const int64_t images = layers[0].conv.n;
  if (images < 4 * pool.threads) {  // layer by layer, for all threads to have work
    const std::unique_ptr<float[]> between(new float[2 * images * widest]);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t output = layers[i].conv.output(), bands = parts[i].bands;
      float* y = layers[i].y ? layers[i].y : between.get() + i % 2 * images * widest;
      parallel_for(pool, images * bands, [&](int64_t job) {
        const int64_t n = job / bands;
        parts[i].compute(job % bands, image(x, n, layers[i].conv.input(), layers[i].conv.in), y + n * output, codes(i, n));
      });
      parallel_for(pool, images, [&](int64_t n) { keep(i, n, y + n * output); });
      x = y;
    }
    return;
  }
  parallel_for(pool, images, [&](int64_t n) {  // an image through all layers, while it is in the caches
    const Between between(widest);
    const void* in = image(x, n, layers[0].conv.input(), layers[0].conv.in);
    for (int64_t i = 0; i < count; ++i) {
      float* y = layers[i].y ? layers[i].y + n * layers[i].conv.output() : between[i];
      for (int64_t band = 0; band < parts[i].bands; ++band) parts[i].compute(band, in, y, codes(i, n));
      keep(i, n, y);
      in = y;
    }
  });
}

void backward(const Pool& pool, const LayerGradient* layers, int64_t count, const void* g, bool rounded, float* dx) {
  std::vector<Backward> parts;
  std::vector<int64_t> sums_from, frequencies_from;  // of each layer, and the ends
  int64_t sums = 0, frequencies = 0, widest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Conv& s = layers[i].conv;
    parts.push_back(prepare_backward(s, layers[i].w, layers[i].kind, i || dx));
    sums_from.push_back(sums), frequencies_from.push_back(frequencies);
    sums += (9 * s.ci + 1) * s.co, frequencies += parts[i].frequencies;
    if (i) widest = std::max(widest, s.input());
  }

  // Each group of images has sums of its own, so that the result does not depend on the number of threads: of each layer
  // dw [block][taps][16], db [co].
  const int64_t last = layers[count - 1].conv.output();
  auto gradient = [&](int64_t n) {  // of the last y of an image
    if (!rounded) return static_cast<const float*>(g) + n * last;
    float* line = scratch(Scratch::kOutput, last);
    for (int64_t i = 0; i < last; i += kLanes) store(line + i, load(static_cast<const uint16_t*>(g) + n * last + i));
    return static_cast<const float*>(line);
  };
  const int64_t images = layers[0].conv.n, most = std::clamp<int64_t>(kPartialSums / sums, 1, kGroups);
  const int64_t group = (images + most - 1) / most, groups = (images + group - 1) / group;
  std::unique_ptr<float[]> all(new float[groups * sums]);
  sums_from.push_back(sums), frequencies_from.push_back(frequencies);
  auto add = [&](int64_t job, int64_t k, int64_t i, const Between& between, float* summed) {
    const LayerGradient& layer = layers[i];
    const Conv& s = layer.conv;
    const int64_t n = job * group + k;
    float *dw = all.get() + job * sums + sums_from[i], *own = summed + frequencies_from[i];
    if (n >= images) return;
    if (!k) std::fill_n(dw, sums_from[i + 1] - sums_from[i], 0.f), std::fill_n(own, parts[i].frequencies, 0.f);
    parts[i].add_image(image(layer.x, n, s.input(), s.in), image(layer.kept, n, s.output(), layer.kind),
                       i + 1 < count ? between[i + 1] : gradient(n), i ? between[i] : dx ? dx + n * s.input() : nullptr, dw,
                       dw + 9 * s.ci * s.co, own);
    if (parts[i].finish && (k + 1 == group || n + 1 == images)) parts[i].finish(own, dw);
  };
  if (pool.threads > groups && group > 1) {
    std::unique_ptr<float[]> summed(new float[groups * frequencies]);
    share_groups(pool, groups, group, count, widest, [&](int64_t job, int64_t k, int64_t i, const Between& between) {
      add(job, k, i, between, summed.get() + job * frequencies);
    });
  } else {
    parallel_for(pool, groups, [&](int64_t job) {
      const Between between(widest);
      float* summed = scratch(Scratch::kFrequencies, frequencies);
      for (int64_t k = 0; k < group; ++k)
        for (int64_t i = count - 1; i >= 0; --i) add(job, k, i, between, summed);
    });
  }

  // Kernel row by kernel row.
  std::vector<int64_t> jobs{0};
  for (int64_t i = 0; i < count; ++i) jobs.push_back(jobs.back() + layers[i].conv.co / kBlock * 3);
  parallel_for(pool, jobs.back(), [&](int64_t job) {
    const int64_t i = std::upper_bound(jobs.begin(), jobs.end(), job) - jobs.begin() - 1;
    const LayerGradient& layer = layers[i];
    const Conv& s = layer.conv;
    const int64_t block = (job - jobs[i]) / 3, row = (job - jobs[i]) % 3, taps = 3 * s.ci;
    auto add = [&](int64_t from, int64_t values) {
      float* total = all.get() + sums_from[i] + from;
      for (int64_t p = 1; p < groups; ++p)
        for (int64_t k = 0; k < values; ++k) total[k] += total[p * sums + k];
      return total;
    };
    const float* dw = add((block * 3 + row) * taps * kBlock, taps * kBlock);
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t k = 0; k < kBlock; ++k) layer.dw[(row * taps + t) * s.co + block * kBlock + k] = s.scale * dw[t * kBlock + k];
    if (!row) std::copy_n(add(9 * s.ci * s.co + block * kBlock, kBlock), kBlock, layer.db + block * kBlock);
  });
}

}  // namespace cnnjax
