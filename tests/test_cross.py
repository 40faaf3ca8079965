"""The kernels compiled for another machine and run by an emulator, against sums of doubles."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cnnjax import kernels

DRIVER = r"""
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include "conv.h"
#include "dense.h"
#include "plain.h"
using namespace cnnjax;
using Numbers = std::vector<float>;
using Sums = std::vector<double>;
std::mt19937 rng(0);
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
  conv_forward(pool, s, x.data(), w.data(), b.data(), y.data(), nullptr);
  same("block", y, z);
  each([&](int64_t i, int64_t j, int64_t k) {
    if (y[k] > 0) dx[i] += double(g[k]) * w[j], dw[j] += double(g[k]) * x[i];
  });
  for (int64_t k = 0; k < outputs; ++k) db[k % s.co] += y[k] > 0 ? g[k] : 0;
  conv_backward(pool, s, x.data(), w.data(), y.data(), g.data(), found_dw.data(), found_db.data(), found_dx.data());
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
    conv_forward(pool, pooled, x.data(), w.data(), b.data(), found.data(), code.data());
    same("pooled block", found, most);
  }
}
void plain(const Pool& pool, const Plain& s) {
  const int64_t ny = s.n * s.rows() * s.columns() * s.co, nx = s.n * s.h * s.w * s.ci, nw = s.kernel * s.kernel * s.ci * s.co;
  const Numbers x = normal(nx), w = normal(nw), g = normal(ny);
  Sums y(ny), dx(nx), dw(nw);
  products(s.n, s.h, s.w, s.ci, s.co, s.kernel, s.stride, s.kernel / 2, [&](int64_t i, int64_t j, int64_t k) {
    y[k] += double(x[i]) * w[j], dx[i] += double(g[k]) * w[j], dw[j] += double(g[k]) * x[i];
  });
  Numbers found(ny), found_dx(nx), found_dw(nw);
  plain_forward(pool, s, x.data(), w.data(), found.data());
  plain_backward(pool, s, x.data(), w.data(), g.data(), found_dw.data(), s.ci % 16 ? nullptr : found_dx.data());
  same("convolution", found, y), same("dw of a convolution", found_dw, dw);
  if (s.ci % 16 == 0) same("dx of a convolution", found_dx, dx);
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
  dense_forward(pool, m, k, n, false, x.data(), w.data(), found.data());
  dense_backward(pool, m, k, n, false, x.data(), w.data(), g.data(), found_dx.data(), found_dw.data());
  same("dense", found, y), same("dx of dense", found_dx, dx), same("dw of dense", found_dw, dw);
}
int main() {
  const Pool pool{2};
  for (int64_t ci : {3, 16, 32})
    for (int64_t padding : {0, 1})
      for (int64_t side : {4, 7, 18, 27}) block(pool, {2, side, side + ci % 5, ci, 32, padding, 0, false, 1.f, false});
  for (int64_t ci : {5, 16, 48})
    for (int64_t kernel : {1, 3, 5})
      for (int64_t stride : {1, 2}) plain(pool, {3, 9, 6, ci, 32, kernel, stride});
  for (int64_t k : {16, 2048}) dense(pool, 5, k, 48);
  std::printf("%d right, %d wrong\n", right, wrong);
  return wrong != 0;
}
"""  # fmt: skip
COMPILER, EMULATOR = (
    shutil.which("aarch64-linux-gnu-g++"),
    shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static"),
)


@pytest.mark.slow
@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="no g++-aarch64-linux-gnu or no qemu-user")
def test_results_on_arm_are_right(tmp_path):
    source = Path(kernels.__file__).parent
    (tmp_path / "driver.cc").write_text(DRIVER)
    parts = (source / f"{part}.cc" for part in ("conv", "dense", "plain"))
    command = [COMPILER, "-std=c++17", "-O2", "-w", "-static", "-pthread", f"-I{source}", tmp_path / "driver.cc", *parts,
               "-o", tmp_path / "driver"]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([EMULATOR, tmp_path / "driver"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(", 0 wrong\n") and not done.stdout.startswith("0 "), done.stdout
