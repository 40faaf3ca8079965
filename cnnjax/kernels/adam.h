// One update by Adam (Kingma and Ba 2014, arXiv:1412.6980), all of it in one pass over the memory.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

struct Adam {
  float beta1, beta2, epsilon, decay;  // decay: of the weights, as in AdamW
  float rate, mean, square;            // learning rate; corrections of the bias, 1 / (1 - beta1^step) and 1 / (1 - beta2^step)
  float clip;                          // of the gradients
};

// n gradients g; parameters p and moments m and v are changed in place.
void adam(const Pool& pool, const Adam& adam, int64_t n, const float* g, float* p, float* m, float* v);

}  // namespace cnnjax
