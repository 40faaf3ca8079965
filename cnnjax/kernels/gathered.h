// Convolutions of any kernel and stride, as products of matrices; arguments as in plain.h.
#pragma once

#include "plain.h"

namespace cnnjax {

void gathered_forward(const Pool& pool, const Plain& s, const float* x, const float* w, const Finish& after, float* y);
void gathered_weights(const Pool& pool, const Plain& s, const float* x, const float* g, float* dw);
void gathered_inputs(const Pool& pool, const Plain& s, const float* w, const float* g, float* dx);

}  // namespace cnnjax
