// What XLA calls for convolutions between two norms in training, and for the norm at the end.
#include "linked.h"

#include "calls.h"
#include "conv_dims.h"

namespace cnnjax {
namespace {

// A convolution of one pixel, or one with a kernel for each channel.
struct Conv {
  Depthwise depthwise;
  Pointwise pointwise;
  bool is_depthwise;
};

const char* describe(Dims x, Dims w, Dims y, int64_t stride, Dims padding, Conv& conv) {
  conv.is_depthwise = w.size() == 4 && x.size() == 4 && w[2] == 1 && x[3] > 1;
  if (conv.is_depthwise) return describe(x, w, y, stride, padding, conv.depthwise);
  Plain plain;
  if (const char* problem = describe(x, w, y, stride, padding, plain)) return problem;
  if (!is_product(plain)) return "a convolution of all channels has one pixel here, channels are 16 or more and multiples of 4";
  conv.pointwise = {plain.n * plain.h * plain.w, plain.ci, plain.co, plain.n};
  return nullptr;
}

// Fills in the norm of [n, ..., channels] from mean, scale, bias and perhaps a gate, from place `at` of `rest` on; none where it ends there.
const char* describe(ffi::RemainingArgs rest, size_t at, Dims x, int64_t activation, Normed& norm) {
  if (activation < 0 || activation >= kActivations) return "no such activation";
  if (rest.size() == at) return activation ? "an activation without a norm" : nullptr;
  if (rest.size() < at + 3 || rest.size() > at + 4) return "a norm is mean, scale and bias, and perhaps a gate";
  const float** const to[] = {&norm.mean, &norm.scale, &norm.bias, &norm.gate};
  for (size_t i = 0; i < rest.size() - at; ++i) {
    const auto buffer = rest.get<F32>(at + i);
    if (!buffer || !(i < 3 ? equal(buffer->dimensions(), {x.back()}) : equal(buffer->dimensions(), {x[0], x.back()})))
      return "norm or gate are float32, and as wide as their images";
    *to[i] = buffer->typed_data();
  }
  norm.activation = Activation(activation);
  return nullptr;
}

bool are_vectors(int64_t channels, std::initializer_list<F32> arrays) {
  return std::all_of(arrays.begin(), arrays.end(), [&](const F32& array) { return equal(array.dimensions(), {channels}); });
}

ffi::Error LinkedForward(ffi::ThreadPool threads, F32 x, F32 w, ffi::RemainingArgs norm, ffi::Result<F32> y, ffi::RemainingRets sums,
                         int64_t stride, Dims padding, int64_t activation) {
  Conv conv;
  Normed before;
  if (const char* problem = describe(x.dimensions(), w.dimensions(), y->dimensions(), stride, padding, conv)) return wrong(problem);
  if (const char* problem = describe(norm, 0, x.dimensions(), activation, before)) return wrong(problem);
  if (conv.is_depthwise && (before.gate || !sums.size())) return wrong("a kernel for each channel has sums, and no gate before it");
  float* to[2] = {};
  if (sums.size() != 0 && sums.size() != 2) return wrong("sums are those of outputs and of their squares");
  for (size_t i = 0; i < sums.size(); ++i) {
    auto buffer = sums.get<F32>(i);
    if (!buffer || !equal((*buffer)->dimensions(), {w.dimensions()[3]})) return wrong("sums do not fit");
    to[i] = (*buffer)->typed_data();
  }
  return run(threads, [&](const Pool& pool) {
    const auto give = [&](auto* forward, const auto& s) {
      forward(pool, s, x.typed_data(), before, w.typed_data(), y->typed_data(), to[0], to[1]);
    };
    conv.is_depthwise ? give(depthwise_linked, conv.depthwise) : give(pointwise_linked, conv.pointwise);
  });
}

// `rest`: with `sums` y, shift and slope; then the norm.
ffi::Error LinkedBackward(ffi::ThreadPool threads, F32 x, F32 w, F32 g, ffi::RemainingArgs rest, ffi::Result<F32> dx, ffi::Result<F32> dw,
                          ffi::RemainingRets more, int64_t stride, Dims padding, int64_t activation, bool sums) {
  Conv conv;
  Normed before;
  if (const char* problem = describe(x.dimensions(), w.dimensions(), g.dimensions(), stride, padding, conv)) return wrong(problem);
  const Dims images = x.dimensions(), outputs = g.dimensions();
  if (rest.size() < (sums ? 3 : 0)) return wrong("y, shift and slope are missing");
  if (const char* problem = describe(rest, sums ? 3 : 0, images, activation, before)) return wrong(problem);
  if (conv.is_depthwise && (before.gate || !sums)) return wrong("a kernel for each channel has sums, and no gate before it");
  Incoming in{g.typed_data()};
  for (size_t i = 0; i < (sums ? 3 : 0); ++i) {
    const auto buffer = rest.get<F32>(i);
    if (!buffer || !(i ? equal(buffer->dimensions(), {outputs[3]}) : same(buffer->dimensions(), outputs)))
      return wrong("gradients of outputs do not fit");
    (i == 0 ? in.y : i == 1 ? in.shift : in.slope) = buffer->typed_data();
  }
  if (!same(dx->dimensions(), images) || !same(dw->dimensions(), w.dimensions())) return wrong("gradients have other shapes");
  Outgoing out{dx->typed_data(), dw->typed_data()};
  if (more.size() != (before.gate ? 1u : before.mean ? 2u : 0u)) return wrong("a gate has one gradient, a norm has two");
  for (size_t i = 0; i < more.size(); ++i) {
    auto buffer = more.get<F32>(i);
    if (!buffer || !(before.gate ? equal((*buffer)->dimensions(), {images[0], images[3]}) : equal((*buffer)->dimensions(), {images[3]})))
      return wrong("gradients of the norm or the gate have other shapes");
    (before.gate ? out.gate : i ? out.offset : out.along) = (*buffer)->typed_data();
  }
  return run(threads, [&](const Pool& pool) {
    const auto give = [&](auto* backward, const auto& s) { backward(pool, s, x.typed_data(), before, w.typed_data(), in, out); };
    conv.is_depthwise ? give(depthwise_linked_backward, conv.depthwise) : give(pointwise_linked_backward, conv.pointwise);
  });
}

// Fills in `s` where x is [n, ..., channels], of 16 channels or more.
const char* describe(Dims x, Images& s) {
  if (!sane(x) || x.size() < 2 || x.back() < 16) return "sizes out of range, or fewer channels than 16";
  s = {x[0], 1, x.back()};
  for (size_t i = 1; i + 1 < x.size(); ++i) s.pixels *= x[i];
  return nullptr;
}

ffi::Error LastNormForward(ffi::ThreadPool threads, F32 x, F32 mean, F32 scale, F32 bias, ffi::RemainingArgs rest, ffi::Result<F32> y,
                         int64_t activation) {
  Images s;
  if (const char* problem = describe(x.dimensions(), s)) return wrong(problem);
  if (activation < 0 || activation >= kActivations || rest.size() > 1) return wrong("no such activation, or too many arguments");
  if (!same(y->dimensions(), x.dimensions()) || !are_vectors(s.channels, {mean, scale, bias})) return wrong("norm or result do not fit");
  const float* more = nullptr;
  if (rest.size()) {
    const auto buffer = rest.get<F32>(0);
    if (!buffer || !same(buffer->dimensions(), x.dimensions())) return wrong("what is added does not fit");
    more = buffer->typed_data();
  }
  const Normed norm{mean.typed_data(), scale.typed_data(), bias.typed_data(), Activation(activation)};
  return run(threads, [&](const Pool& pool) { last_norm(pool, s, x.typed_data(), norm, more, y->typed_data()); });
}

ffi::Error LastNormBackward(ffi::ThreadPool threads, F32 x, F32 g, F32 mean, F32 scale, F32 bias, ffi::RemainingArgs rest, ffi::Result<F32> dx,
                          ffi::Result<F32> along, ffi::Result<F32> offset, int64_t activation) {
  Images s;
  if (const char* problem = describe(x.dimensions(), s)) return wrong(problem);
  if (activation < 0 || activation >= kActivations) return wrong("no such activation");
  if (!same(g.dimensions(), x.dimensions()) || !same(dx->dimensions(), x.dimensions())
      || !are_vectors(s.channels, {mean, scale, bias, *along, *offset}))
    return wrong("norm or gradients do not fit");
  const float* more[2] = {};  // a gate, and what comes back through the squeeze
  if (rest.size() != 0 && rest.size() != 2) return wrong("a gate comes with the gradient of its means");
  for (size_t i = 0; i < rest.size(); ++i) {
    const auto buffer = rest.get<F32>(i);
    if (!buffer || !equal(buffer->dimensions(), {s.images, s.channels})) return wrong("gate or the gradient of the means do not fit");
    more[i] = buffer->typed_data();
  }
  const Normed norm{mean.typed_data(), scale.typed_data(), bias.typed_data(), Activation(activation), more[0]};
  return run(threads, [&](const Pool& pool) {
    last_norm_backward(pool, s, x.typed_data(), norm, g.typed_data(), more[1], {dx->typed_data(), nullptr, along->typed_data(), offset->typed_data()});
  });
}

ffi::Error Squeeze(ffi::ThreadPool threads, F32 x, F32 mean, F32 scale, F32 bias, ffi::Result<F32> y, int64_t activation) {
  Images s;
  if (const char* problem = describe(x.dimensions(), s)) return wrong(problem);
  if (activation < 0 || activation >= kActivations) return wrong("no such activation");
  if (!equal(y->dimensions(), {s.images, s.channels}) || !are_vectors(s.channels, {mean, scale, bias})) return wrong("norm or means do not fit");
  const Normed norm{mean.typed_data(), scale.typed_data(), bias.typed_data(), Activation(activation)};
  return run(threads, [&](const Pool& pool) { squeeze(pool, s, x.typed_data(), norm, y->typed_data()); });
}

}  // namespace
}  // namespace cnnjax

extern "C" {
EXPORTED XLA_FFI_Error* CnnjaxLinkedForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxLinkedBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxLastNormForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxLastNormBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxSqueeze(XLA_FFI_CallFrame*);
}

#define ACTIVATION .Attr<int64_t>("activation")
#define CONV .Attr<int64_t>("stride").Attr<cnnjax::Dims>("padding") ACTIVATION

#define NORM ARG ARG ARG

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxLinkedForward, cnnjax::LinkedForward, THREADS ARG ARG.RemainingArgs() RET.RemainingRets() CONV);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxLinkedBackward, cnnjax::LinkedBackward,
                              THREADS ARG ARG ARG.RemainingArgs() RET RET.RemainingRets() CONV.Attr<bool>("sums"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxLastNormForward, cnnjax::LastNormForward, THREADS ARG NORM.RemainingArgs() RET ACTIVATION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxLastNormBackward, cnnjax::LastNormBackward, THREADS ARG ARG NORM.RemainingArgs() RET RET RET ACTIVATION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxSqueeze, cnnjax::Squeeze, THREADS ARG NORM RET ACTIVATION);
