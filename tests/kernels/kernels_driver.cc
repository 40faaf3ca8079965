// The kernels called without Python: `driver fuzz ROUNDS` with arrays of random shapes, for sanitizers; `driver compare` against
// sums of doubles, for machines that are emulated. Both print a last line that says how it went, and return 0 where it went well.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "adam.h"
#include "conv.h"
#include "dense.h"
#include "depthwise.h"
#include "linked.h"
#include "norm.h"
#include "orthogonal.h"
#include "plain.h"
#include "pointwise.h"
#include "pool.h"
#include "sample.h"

using namespace cnnjax;

std::mt19937 rng(0);

int64_t draw(int64_t a, int64_t b) { return std::uniform_int_distribution<int64_t>(a, b)(rng); }
// Exactly as large as it must be, so that one number beyond is an error.
template <typename T> std::unique_ptr<T[]> array(int64_t n) {
  std::unique_ptr<T[]> p(new T[n]);
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<T>(draw(0, 9));
  return p;
}
// A convolution without bias, a norm of its result, and a pool.
void normed(const Pool& pool) {
  const int64_t inputs[] = {3, 5, 16, 32, 48, 96};
  const Plain s{draw(1, 6), draw(1, 12), draw(1, 12), inputs[draw(0, 5)], 16 * draw(1, 7), 2 * draw(0, 3) + 1, draw(1, 3)};
  const int64_t nx = s.n * s.h * s.w * s.ci, ny = s.n * s.rows() * s.columns() * s.co, nw = s.kernel * s.kernel * s.ci * s.co;
  auto x = array<float>(nx), w = array<float>(nw), y = array<float>(ny), dx = array<float>(nx), dw = array<float>(nw);
  auto more = array<float>(ny), offset = array<float>(s.co);
  const Finish after{offset.get(), more.get(), static_cast<Activation>(draw(0, 3))};
  plain_forward(pool, s, x.get(), w.get(), finishes(s) ? after : Finish{}, y.get());
  plain_backward(pool, s, x.get(), w.get(), y.get(), dw.get(), s.ci % 16 ? nullptr : dx.get());
  const Norm norm{ny / s.co, s.co, static_cast<Activation>(draw(0, 2))};
  auto a = array<float>(s.co), b = array<float>(s.co), c = array<float>(s.co), d = array<float>(s.co);
  auto z = array<float>(ny);
  const bool adds = draw(0, 1);
  norm_sums(pool, norm, y.get(), a.get(), b.get());
  norm_forward(pool, norm, y.get(), a.get(), b.get(), c.get(), adds ? more.get() : nullptr, z.get());
  norm_gradient_sums(pool, norm, more.get(), z.get(), y.get(), a.get(), b.get(), c.get());
  norm_backward(pool, norm, more.get(), z.get(), y.get(), a.get(), b.get(), c.get(), d.get(), z.get(), adds ? y.get() : nullptr);
  const MaxPool window{s.n, s.rows(), s.columns(), s.co};
  const int64_t np = s.n * window.rows() * window.columns() * s.co;
  auto pooled = array<float>(np);
  auto code = array<uint8_t>(np);
  max_pool_forward(pool, window, y.get(), pooled.get(), adds ? code.get() : nullptr);
  max_pool_forward(pool, window, y.get(), pooled.get(), code.get());
  max_pool_backward(pool, window, code.get(), pooled.get(), z.get());
}
// A convolution with a kernel for each channel between two norms; one of one pixel, perhaps behind a gate; the norm at the end.
void linked_ones(const Pool& pool, const Depthwise& s) {
  const auto draw_norm = [](const float* vectors, const float* gate = nullptr) {
    return Normed{vectors, vectors, vectors, static_cast<Activation>(draw(0, kActivations - 1)), gate};
  };
  const int64_t nx = s.n * s.h * s.w * s.channels, ny = s.n * s.rows * s.columns * s.channels, nw = s.kernel * s.kernel * s.channels;
  auto x = array<float>(nx), w = array<float>(nw), y = array<float>(ny), g = array<float>(ny), dx = array<float>(nx), dw = array<float>(nw);
  auto a = array<float>(s.channels), b = array<float>(s.channels), c = array<float>(s.channels);
  const Normed norm = draw(0, 3) ? draw_norm(a.get()) : Normed{};
  depthwise_linked(pool, s, x.get(), norm, w.get(), y.get(), b.get(), c.get());
  depthwise_linked_backward(pool, s, x.get(), norm, w.get(), {g.get(), y.get(), b.get(), b.get()}, {dx.get(), dw.get(), b.get(), c.get()});
  const Images images{s.n, s.rows * s.columns, s.channels};
  auto gate = array<float>(s.n * s.channels), means = array<float>(s.n * s.channels);
  const bool gated = draw(0, 1);
  last_norm(pool, images, y.get(), draw_norm(a.get()), draw(0, 1) ? g.get() : nullptr, g.get());
  squeeze(pool, images, y.get(), draw_norm(a.get()), means.get());
  last_norm_backward(pool, images, y.get(), draw_norm(a.get(), gated ? gate.get() : nullptr), g.get(), means.get(),
                     {g.get(), nullptr, b.get(), c.get()});
  const int64_t ci = 4 * draw(4, 60), co = 4 * draw(4, 60);
  const Pointwise p{s.n * s.rows * s.columns, ci, co, s.n};
  auto px = array<float>(p.rows * ci), py = array<float>(p.rows * co), pw = array<float>(ci * co), in = array<float>(ci), out = array<float>(co);
  auto pdx = array<float>(p.rows * ci), pdw = array<float>(ci * co), pgate = array<float>(s.n * ci), sums = array<float>(std::max(ci, co));
  const Normed before = gated || draw(0, 1) ? draw_norm(in.get(), gated ? pgate.get() : nullptr) : Normed{};
  pointwise_linked(pool, p, px.get(), before, pw.get(), py.get(), sums.get(), out.get());
  auto dgate = array<float>(s.n * ci), along = array<float>(ci);
  if (draw(0, 1)) pointwise_linked(pool, p, px.get(), before, pw.get(), py.get(), nullptr, nullptr);
  pointwise_linked_backward(pool, p, px.get(), before, pw.get(), draw(0, 1) ? Incoming{py.get(), py.get(), out.get(), out.get()} : Incoming{py.get()},
                            {pdx.get(), pdw.get(), along.get(), sums.get(), dgate.get()});
}
// A convolution with a kernel for each channel, and one of one pixel, of any channels; a norm of its result.
void separable(const Pool& pool) {
  const int64_t kernel = 3 + 2 * draw(0, 2), stride = draw(1, 2), c = draw(16, 150), n = draw(1, 4), h = draw(1, 20), w = draw(1, 30);
  const int64_t top = draw(0, kernel - 1), left = draw(0, kernel - 1);
  const int64_t rows = std::max<int64_t>(0, h + top + kernel / 2 - kernel) / stride + 1, columns = std::max<int64_t>(0, w + left + kernel / 2 - kernel) / stride + 1;
  const Depthwise s{n, h, w, c, kernel, stride, top, left, rows, columns};
  const int64_t nx = n * h * w * c, ny = n * rows * columns * c, nw = kernel * kernel * c;
  auto x = array<float>(nx), k = array<float>(nw), y = array<float>(ny), dx = array<float>(nx), dw = array<float>(nw);
  auto more = array<float>(ny), offset = array<float>(c), b = array<float>(c);
  depthwise_forward(pool, s, x.get(), k.get(), {offset.get(), draw(0, 1) ? more.get() : nullptr, static_cast<Activation>(draw(0, 3))}, y.get());
  depthwise_linked_backward(pool, s, x.get(), {}, k.get(), {y.get()}, {dx.get(), dw.get()});
  const Norm norm{n * rows * columns, c, static_cast<Activation>(draw(0, 2))};
  norm_sums(pool, norm, y.get(), offset.get(), b.get());
  norm_forward(pool, norm, y.get(), offset.get(), b.get(), b.get(), nullptr, more.get());
  norm_gradient_sums(pool, norm, y.get(), more.get(), y.get(), offset.get(), b.get(), b.get());
  norm_backward(pool, norm, y.get(), more.get(), y.get(), b.get(), b.get(), b.get(), b.get(), more.get(), nullptr);
  const Pointwise p{draw(1, 900), 4 * draw(4, 40), 4 * draw(4, 40)};
  auto px = array<float>(p.rows * p.ci), pw = array<float>(p.ci * p.co), py = array<float>(p.rows * p.co);
  pointwise_forward(pool, p, px.get(), pw.get(), false, {}, py.get());
  pointwise_forward(pool, {p.rows, p.co, p.ci}, py.get(), pw.get(), true, {}, px.get());
  pointwise_weights(pool, p, px.get(), py.get(), pw.get());
  linked_ones(pool, s);
}
// Up to three blocks, of few images or many: as in inference, then as in training.
void blocks(const Pool& pool, bool bfloat16) {
  const int64_t inputs[] = {1, 3, 5, 16, 20, 32, 48, 64, 96}, count = draw(1, 3);
  const Kind kind = draw(0, 1) ? Kind::kByte : Kind::kFloat;
  Conv next{draw(0, 2) ? draw(1, 5) : 4 * pool.threads + 1, draw(1, 24), draw(1, 40), inputs[draw(0, 8)], 0, 0, 0, kind, 0.5f, bfloat16};
  auto floats = array<float>(next.n * next.input());
  auto bytes = array<uint8_t>(next.n * next.input());
  const void* x = kind == Kind::kByte ? static_cast<void*>(bytes.get()) : floats.get();
  std::vector<std::unique_ptr<float[]>> numbers;
  std::vector<std::unique_ptr<uint8_t[]>> codes;
  std::vector<std::unique_ptr<uint16_t[]>> halves;
  auto some = [&](int64_t n) { return numbers.push_back(array<float>(n)), numbers.back().get(); };
  std::vector<Layer> layers;
  for (int64_t i = 0; i < count; ++i) {
    next.co = 16 * draw(1, 4), next.padding = draw(0, 1), next.pool_stride = draw(0, 2);
    const int64_t least = next.pool_stride ? 2 : 1;
    if (next.conv_rows() < least || next.conv_columns() < least) break;
    const int64_t outputs = next.n * next.output(), weights = 9 * next.ci * next.co;
    codes.push_back(array<uint8_t>(outputs)), halves.push_back(array<uint16_t>(outputs));
    layers.push_back({next, some(weights), some(next.co), some(outputs), nullptr, next.pool_stride ? codes.back().get() : nullptr});
    next = {next.n, next.rows(), next.columns(), next.co, 0, 0, 0, Kind::kFloat, 1.f, bfloat16};
  }
  if (layers.empty()) return;
  std::vector<Layer> inference = layers;
  for (size_t i = 0; i < inference.size(); ++i) {
    inference[i].code = nullptr;
    if (i + 1 < inference.size()) inference[i].y = nullptr;
  }
  forward(pool, inference.data(), inference.size(), x);

  std::vector<LayerGradient> gradients;
  const void* in = x;
  for (size_t i = 0; i < layers.size(); ++i) {
    Layer& layer = layers[i];
    const bool rounded = keeps_rounded(bfloat16) && i + 1 < layers.size();
    if (rounded) layer.rounded = halves[i].get(), layer.y = nullptr;
    const bool half = i + 1 == layers.size() && keeps_rounded(bfloat16) && draw(0, 1);
    if (half) layer.rounded = halves[i].get(), layer.y = nullptr;
    const void* y = layer.rounded ? static_cast<void*>(layer.rounded) : layer.y;
    const bool pooled = layer.conv.pool_stride;
    const Kind kept = pooled ? Kind::kByte : layer.rounded ? Kind::kBfloat16 : Kind::kFloat;
    gradients.push_back({layer.conv, layer.w, in, pooled ? layer.code : y, kept, some(9 * layer.conv.ci * layer.conv.co), some(layer.conv.co)});
    if (i && keeps_rounded(bfloat16)) gradients[i].conv.in = Kind::kBfloat16;
    in = y;
  }
  forward(pool, layers.data(), layers.size(), x);
  const Conv &first = layers.front().conv, &last = layers.back().conv;
  const auto g = array<uint16_t>(last.n * last.output());
  const bool half = layers.back().rounded;
  const void* given = half ? static_cast<void*>(g.get()) : some(last.n * last.output());
  backward(pool, gradients.data(), gradients.size(), given, half, draw(0, 1) ? some(first.n * first.input()) : nullptr);
}
int fuzz(int rounds) {
  Pool pool{4};
  for (int round = 0; round < rounds; ++round) {
    const bool bfloat16 = draw(0, 1) == 0;
    blocks(pool, bfloat16);
    const int64_t m = draw(1, 9), k = 16 * draw(1, 40), n = 16 * draw(1, 9);
    auto x = array<float>(m * k), w = array<float>(k * n), y = array<float>(m * n), dx = array<float>(m * k);
    auto dw = array<float>(k * n);
    auto half_x = array<uint16_t>(m * k), half_dx = array<uint16_t>(m * k);
    const Dense wide{m, k, n, bfloat16, keeps_rounded(bfloat16) && draw(0, 1)};
    const void* in = wide.rounded ? static_cast<void*>(half_x.get()) : x.get();
    dense_forward(pool, wide, in, w.get(), y.get());
    dense_backward(pool, wide, in, w.get(), y.get(), wide.rounded ? static_cast<void*>(half_dx.get()) : dx.get(), dw.get());
    normed(pool), separable(pool);
    const int64_t numbers = draw(1, 70000);
    auto gp = array<float>(numbers), pp = array<float>(numbers), mp = array<float>(numbers), vp = array<float>(numbers);
    adam(pool, {0.9f, 0.999f, 1e-7f, 0.1f, 0.01f, 2.f, 3.f, 0.5f}, numbers, gp.get(), pp.get(), mp.get(), vp.get());
    const int64_t across = 16 * draw(1, 6), down = across + draw(0, 70);
    auto matrix = array<float>(down * across), turned = array<float>(down * across);
    orthogonal(pool, {down, across}, matrix.get(), turned.get());

    Sampling t{draw(1, 4), draw(1, 70), draw(1, 70), draw(0, 1) ? 3 : draw(1, 5), draw(1, 24), draw(0, 1) == 0, draw(0, 1) == 0,
               static_cast<Fill>(draw(0, 3))};
    const int64_t nt = t.n * t.h * t.w * t.c, most = draw(0, 1) ? int64_t(1) << t.bits : int64_t(INT32_MAX);
    auto values = array<float>(nt), sampled = array<float>(nt);
    auto levels = array<uint8_t>(nt);
    auto factors = array<int32_t>(6 * t.n);
    for (int64_t i = 0; i < 6 * t.n; ++i) factors[i] = draw(-most, most);
    sample(pool, t, t.bytes ? static_cast<void*>(levels.get()) : values.get(), factors.get(), sampled.get());
    for (int64_t i = 0; i < nt; ++i)
      if (!(sampled[i] >= 0 && sampled[i] <= 9.001f)) return 1;
  }
  std::puts("done");
  return 0;
}

using Numbers = std::vector<float>;
using Sums = std::vector<double>;
Numbers normal(int64_t n) {
  Numbers v(n);
  std::normal_distribution<float> draw;
  for (float& x : v) x = draw(rng);
  return v;
}
int wrong = 0, right = 0;
void same(const char* what, const Numbers& found, const Sums& wanted) {
  double most = 0, far = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    most = std::max(most, std::abs(wanted[i]));
    far = std::max(far, std::isfinite(found[i]) ? std::abs(found[i] - wanted[i]) : 1e9);
  }
  (far <= 1e-5 * most ? right : wrong)++;
  if (far > 1e-5 * most) std::printf("%s: off by %g of %g\n", what, far, most);
}
// Calls see(place in x, place in w, place in y) for each product of a convolution.
template <typename See>
void products(int64_t n, int64_t h, int64_t w, int64_t ci, int64_t co, int64_t size, int64_t stride, int64_t padding, const See& see) {
  const int64_t rows = (h + 2 * padding - size) / stride + 1, columns = (w + 2 * padding - size) / stride + 1;
  for (int64_t i = 0; i < n * rows * columns; ++i)
    for (int64_t tap = 0; tap < size * size; ++tap) {
      const int64_t image = i / (rows * columns), y = i / columns % rows * stride + tap / size - padding;
      const int64_t x = i % columns * stride + tap % size - padding;
      if (y < 0 || y >= h || x < 0 || x >= w) continue;
      for (int64_t a = 0; a < ci; ++a)
        for (int64_t b = 0; b < co; ++b) see(((image * h + y) * w + x) * ci + a, (tap * ci + a) * co + b, i * co + b);
    }
}
void block(const Pool& pool, const Conv& s) {
  const int64_t outputs = s.n * s.conv_rows() * s.conv_columns() * s.co, nx = s.n * s.h * s.w * s.ci, nw = 9 * s.ci * s.co;
  const Numbers x = normal(nx), w = normal(nw), b = normal(s.co), g = normal(outputs);
  Sums z(outputs), dx(nx), dw(nw), db(s.co);
  for (int64_t i = 0; i < outputs; ++i) z[i] = b[i % s.co];
  auto each = [&](const auto& see) { products(s.n, s.h, s.w, s.ci, s.co, 3, 1, s.padding, see); };
  each([&](int64_t i, int64_t j, int64_t k) { z[k] += double(x[i]) * w[j]; });
  for (double& value : z) value = std::max(value, 0.0);
  Numbers y(outputs), found_dx(nx), found_dw(nw), found_db(s.co);
  const Layer layer{s, w.data(), b.data(), y.data(), nullptr, nullptr};
  forward(pool, &layer, 1, x.data());
  same("block", y, z);
  each([&](int64_t i, int64_t j, int64_t k) {
    if (y[k] > 0) dx[i] += double(g[k]) * w[j], dw[j] += double(g[k]) * x[i];
  });
  for (int64_t k = 0; k < outputs; ++k) db[k % s.co] += y[k] > 0 ? g[k] : 0;
  const LayerGradient gradient{s, w.data(), x.data(), y.data(), Kind::kFloat, found_dw.data(), found_db.data()};
  backward(pool, &gradient, 1, g.data(), false, found_dx.data());
  same("dx of a block", found_dx, dx), same("dw of a block", found_dw, dw), same("db of a block", found_db, db);
  for (int64_t stride : {1, 2}) {
    Conv pooled = s;
    pooled.pool_stride = stride;
    Sums most(s.n * pooled.rows() * pooled.columns() * s.co);
    Numbers found(most.size());
    for (size_t i = 0; i < most.size(); ++i) {
      const int64_t c = i % s.co, q = i / s.co % pooled.columns(), r = i / s.co / pooled.columns() % pooled.rows();
      const int64_t image = i / s.co / pooled.columns() / pooled.rows();
      for (int64_t k = 0; k < 4; ++k) {
        const int64_t row = image * s.conv_rows() + r * stride + k / 2;
        most[i] = std::max(most[i], z[(row * s.conv_columns() + q * stride + k % 2) * s.co + c]);
      }
    }
    std::vector<uint8_t> code(most.size());
    const Layer with_pool{pooled, w.data(), b.data(), found.data(), nullptr, code.data()};
    forward(pool, &with_pool, 1, x.data());
    same("pooled block", found, most);
  }
}
void plain(const Pool& pool, const Plain& s) {
  const bool has_dx = s.ci % 16 == 0 || is_product(s);
  const int64_t ny = s.n * s.rows() * s.columns() * s.co, nx = s.n * s.h * s.w * s.ci, nw = s.kernel * s.kernel * s.ci * s.co;
  const Numbers x = normal(nx), w = normal(nw), g = normal(ny);
  Sums y(ny), dx(nx), dw(nw);
  products(s.n, s.h, s.w, s.ci, s.co, s.kernel, s.stride, s.kernel / 2, [&](int64_t i, int64_t j, int64_t k) {
    y[k] += double(x[i]) * w[j], dx[i] += double(g[k]) * w[j], dw[j] += double(g[k]) * x[i];
  });
  Numbers found(ny), found_dx(nx), found_dw(nw);
  plain_forward(pool, s, x.data(), w.data(), {}, found.data());
  plain_backward(pool, s, x.data(), w.data(), g.data(), found_dw.data(), has_dx ? found_dx.data() : nullptr);
  same("convolution", found, y), same("dw of a convolution", found_dw, dw);
  if (has_dx) same("dx of a convolution", found_dx, dx);
}
void depthwise(const Pool& pool, const Depthwise& s) {
  const int64_t nx = s.n * s.h * s.w * s.channels, ny = s.n * s.rows * s.columns * s.channels, nw = s.kernel * s.kernel * s.channels;
  const Numbers x = normal(nx), w = normal(nw), g = normal(ny);
  Sums y(ny), dx(nx), dw(nw);
  for (int64_t k = 0; k < ny; ++k)
    for (int64_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
      const int64_t c = k % s.channels, q = k / s.channels % s.columns, p = k / s.channels / s.columns % s.rows;
      const int64_t row = p * s.stride - s.top + tap / s.kernel, column = q * s.stride - s.left + tap % s.kernel;
      if (row < 0 || column < 0 || row >= s.h || column >= s.w) continue;
      const int64_t i = ((k / s.channels / s.columns / s.rows * s.h + row) * s.w + column) * s.channels + c, j = tap * s.channels + c;
      y[k] += double(x[i]) * w[j], dx[i] += double(g[k]) * w[j], dw[j] += double(g[k]) * x[i];
    }
  Numbers found(ny), found_dx(nx), found_dw(nw);
  depthwise_forward(pool, s, x.data(), w.data(), {}, found.data());
  depthwise_linked_backward(pool, s, x.data(), {}, w.data(), {g.data()}, {found_dx.data(), found_dw.data()});
  same("depthwise", found, y), same("dw of depthwise", found_dw, dw), same("dx of depthwise", found_dx, dx);
}
void dense(const Pool& pool, int64_t m, int64_t k, int64_t n) {
  const Numbers x = normal(m * k), w = normal(k * n), g = normal(m * n);
  Sums y(m * n), dx(m * k), dw(k * n);
  for (int64_t r = 0; r < m; ++r)
    for (int64_t i = 0; i < k; ++i)
      for (int64_t c = 0; c < n; ++c) {
        y[r * n + c] += double(x[r * k + i]) * w[i * n + c];
        dx[r * k + i] += double(g[r * n + c]) * w[i * n + c], dw[i * n + c] += double(g[r * n + c]) * x[r * k + i];
      }
  Numbers found(m * n), found_dx(m * k), found_dw(k * n);
  const Dense s{m, k, n, false, false};
  dense_forward(pool, s, x.data(), w.data(), found.data());
  dense_backward(pool, s, x.data(), w.data(), g.data(), found_dx.data(), found_dw.data());
  same("dense", found, y), same("dx of dense", found_dx, dx), same("dw of dense", found_dw, dw);
}
// c = a b of [rows][inner] and [inner][columns].
Sums multiplied(const Sums& a, const Sums& b, int64_t inner, int64_t columns) {
  Sums c(a.size() / inner * columns);
  for (size_t r = 0; r < a.size() / inner; ++r)
    for (int64_t i = 0; i < inner; ++i)
      for (int64_t k = 0; k < columns; ++k) c[r * columns + k] += a[r * inner + i] * b[i * columns + k];
  return c;
}
void near_one(const Pool& pool, const Matrix& m) {
  const Numbers x = normal(m.rows * m.columns);
  Sums y(x.begin(), x.end());
  double squares = 0;
  for (double value : y) squares += value * value;
  for (double& value : y) value /= std::sqrt(squares);
  for (int turn = 0; turn < 5; ++turn) {
    Sums turned(y.size()), next(y.size());
    for (size_t i = 0; i < y.size(); ++i) turned[i % m.columns * m.rows + i / m.columns] = y[i];
    const Sums gram = multiplied(turned, y, m.rows, m.columns), once = multiplied(y, gram, m.columns, m.columns), twice = multiplied(once, gram, m.columns, m.columns);
    for (size_t i = 0; i < y.size(); ++i) y[i] = 3.4445 * y[i] - 4.775 * once[i] + 2.0315 * twice[i];
  }
  Numbers found(y.size());
  orthogonal(pool, m, x.data(), found.data());
  same("orthogonal", found, y);
}
int compare() {
  const Pool pool{2};
  for (int64_t ci : {3, 16, 32})
    for (int64_t padding : {0, 1})
      for (int64_t side : {4, 7, 18, 27}) block(pool, {2, side, side + ci % 5, ci, 32, padding, 0, Kind::kFloat, 1.f, false});
  for (int64_t ci : {5, 16, 48})
    for (int64_t kernel : {1, 3, 5})
      for (int64_t stride : {1, 2}) plain(pool, {3, 9, 6, ci, 32, kernel, stride});
  for (int64_t kernel : {3, 5, 7})
    for (int64_t stride : {1, 2}) depthwise(pool, {2, 10, 13, 37, kernel, stride, kernel / 2, kernel / 2, 9 / stride + 1, 12 / stride + 1});
  plain(pool, {3, 9, 6, 24, 40, 1, 1});
  for (int64_t k : {16, 2048}) dense(pool, 5, k, 48);
  for (int64_t columns : {16, 48}) near_one(pool, {2 * columns + 5, columns});
  std::printf("%d right, %d wrong\n", right, wrong);
  return wrong != 0;
}

int main(int count, char** words) {
  return count == 3 && !std::strcmp(words[1], "fuzz") ? fuzz(std::atoi(words[2])) : compare();
}
