#include "pool.h"

#include <limits>

#include "vector.h"

namespace cnnjax {

void max_pool_forward(const Pool& pool, const MaxPool& s, const float* x, float* y, uint8_t* code) {
  const int64_t columns = s.columns(), line = s.w * s.channels;
  parallel_for(pool, s.n * s.rows(), [&](int64_t job) {
    const int64_t top = job % s.rows() * 2 - 1, begin = std::max<int64_t>(0, top), end = std::min(s.h, top + 3);
    const float* image = x + job / s.rows() * s.h * line;
    for (int64_t q = 0; q < columns; ++q)
      for (int64_t c = 0; c < s.channels; c += kLanes) {
        const int64_t left = 2 * q - 1, from = std::max<int64_t>(0, left), until = std::min(s.w, left + 3);
        const int64_t o = (job * columns + q) * s.channels + c;
        Vec best{};
        Codes place{};
        Mask numbers = at_most(best, best);
        for (int64_t j = from; j < until; ++j) {  // first the largest of a column, then of the columns
          Vec most{};
          Codes where{};
          for (int64_t i = begin; i < end; ++i) {
            const Vec v = load(image + i * line + j * s.channels + c);
            const Codes here = all_codes((i - top) * 3 + j - left);
            numbers &= at_most(v, v);
            where = i == begin ? here : pick(less(most, v), here, where);
            most = i == begin ? v : larger(most, v);
          }
          place = j == from ? where : pick(less(best, most), where, place);
          best = j == from ? most : larger(best, most);
        }
        store(y + o, pick(numbers, best, Vec{} + std::numeric_limits<float>::quiet_NaN()));
        if (code) store_codes(code + o, pick(numbers, place, all_codes(9)));
      }
  });
}

void max_pool_backward(const Pool& pool, const MaxPool& s, const uint8_t* code, const float* g, float* dx) {
  const int64_t rows = s.rows(), columns = s.columns();
  parallel_for(pool, s.n * s.h, [&](int64_t job) {
    const int64_t n = job / s.h, i = job % s.h;
    float* to = dx + job * s.w * s.channels;
    for (int64_t j = 0; j < s.w; ++j)
      for (int64_t c = 0; c < s.channels; c += kLanes, to += kLanes) {
        Vec sum{};
        for (int64_t p = i / 2; p < std::min(rows, (i + 1) / 2 + 1); ++p)  // the windows that see this pixel
          for (int64_t q = j / 2; q < std::min(columns, (j + 1) / 2 + 1); ++q) {
            const int64_t o = ((n * rows + p) * columns + q) * s.channels + c;
            sum = add_where(is(load_codes(code + o), (i - 2 * p + 1) * 3 + j - 2 * q + 1), sum, load(g + o));
          }
        store(to, sum);
      }
  });
}

}  // namespace cnnjax
