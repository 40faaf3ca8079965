// What XLA calls for convolutions that a norm follows, with a kernel for each channel too, for the norm, and for the pool after the first of them.
#include "calls.h"
#include "conv_dims.h"
#include "linked.h"
#include "norm.h"
#include "pool.h"

namespace cnnjax {
namespace {

// Fills in what follows the sums: offsets of channels, then what is added, in `rest`.
const char* describe(ffi::RemainingArgs rest, Dims y, int64_t activation, Finish& after) {
  if (activation < 0 || activation >= kActivations || rest.size() > 2) return "no such activation, or too many arguments";
  after.activation = Activation(activation);
  for (size_t i = 0; i < rest.size(); ++i) {
    const auto buffer = rest.get<F32>(i);
    if (!buffer) return "offsets and what is added must be float32";
    const Dims found = buffer->dimensions(), wanted = i ? y : Dims(y.begin() + 3, 1);
    if (found.size() != wanted.size() || !std::equal(found.begin(), found.end(), wanted.begin()))
      return "offsets or what is added do not fit";
    (i ? after.more : after.offset) = buffer->typed_data();
  }
  return nullptr;
}

ffi::Error PlainForward(ffi::ThreadPool threads, F32 x, F32 w, ffi::RemainingArgs rest, ffi::Result<F32> y, int64_t stride,
                        Dims padding, int64_t activation) {
  Plain conv;
  Finish after;
  if (const char* problem = describe(x.dimensions(), w.dimensions(), y->dimensions(), stride, padding, conv)) return wrong(problem);
  if (const char* problem = describe(rest, y->dimensions(), activation, after)) return wrong(problem);
  if (!finishes(conv) && (rest.size() || activation)) return wrong("nothing can follow this convolution");
  return run(threads, [&](const Pool& pool) {
    plain_forward(pool, conv, x.typed_data(), w.typed_data(), after, y->typed_data());
  });
}

ffi::Error PlainBackward(ffi::ThreadPool threads, F32 x, F32 w, F32 g, ffi::Result<F32> dw, ffi::RemainingRets rest,
                         int64_t stride, Dims padding) {
  Plain conv;
  if (const char* problem = describe(x.dimensions(), w.dimensions(), g.dimensions(), stride, padding, conv)) return wrong(problem);
  if (!equal(dw->dimensions(), {conv.kernel, conv.kernel, conv.ci, conv.co})) return wrong("gradients have other shapes");
  float* dx = nullptr;
  if (rest.size()) {
    auto buffer = rest.get<F32>(0);
    if (!buffer || (conv.ci % 16 && !is_product(conv)) || !equal((*buffer)->dimensions(), {conv.n, conv.h, conv.w, conv.ci}))
      return wrong("the gradient of the images has another shape, or channels no multiple of 16");
    dx = (*buffer)->typed_data();
  }
  return run(threads, [&](const Pool& pool) {
    plain_backward(pool, conv, x.typed_data(), w.typed_data(), g.typed_data(), dw->typed_data(), dx);
  });
}

ffi::Error DepthwiseForward(ffi::ThreadPool threads, F32 x, F32 w, ffi::RemainingArgs rest, ffi::Result<F32> y, int64_t stride,
                            Dims padding, int64_t activation) {
  Depthwise conv;
  Finish after;
  if (const char* problem = describe(x.dimensions(), w.dimensions(), y->dimensions(), stride, padding, conv)) return wrong(problem);
  if (const char* problem = describe(rest, y->dimensions(), activation, after)) return wrong(problem);
  return run(threads, [&](const Pool& pool) {
    depthwise_forward(pool, conv, x.typed_data(), w.typed_data(), after, y->typed_data());
  });
}

ffi::Error DepthwiseBackward(ffi::ThreadPool threads, F32 x, F32 w, F32 g, ffi::Result<F32> dw, ffi::Result<F32> dx, int64_t stride,
                             Dims padding) {
  Depthwise conv;
  if (const char* problem = describe(x.dimensions(), w.dimensions(), g.dimensions(), stride, padding, conv)) return wrong(problem);
  if (!equal(dw->dimensions(), {conv.kernel, conv.kernel, 1, conv.channels})
      || !equal(dx->dimensions(), {conv.n, conv.h, conv.w, conv.channels}))
    return wrong("gradients have other shapes");
  return run(threads, [&](const Pool& pool) {
    depthwise_linked_backward(pool, conv, x.typed_data(), {}, w.typed_data(), {g.typed_data()}, {dx->typed_data(), dw->typed_data()});
  });
}

// Fills in `norm` where x is [..., channels], the others of `same` have its shape, and those of `channels` are [channels].
const char* describe(Dims x, std::initializer_list<Dims> same, std::initializer_list<Dims> channels, int64_t activation,
                     Norm& norm) {
  if (!sane(x) || !x.size() || x.back() < 16) return "sizes out of range, or fewer channels than 16";
  if (activation < 0 || activation > int64_t(Activation::kRelu6)) return "after a norm comes none, ReLU or ReLU6";
  norm = {1, x.back(), Activation(activation)};
  for (size_t i = 0; i + 1 < x.size(); ++i) norm.rows *= x[i];
  for (Dims dims : same)
    if (dims.size() != x.size() || !std::equal(dims.begin(), dims.end(), x.begin())) return "arrays of different shapes";
  for (Dims dims : channels)
    if (!equal(dims, {norm.channels})) return "channels do not fit";
  return nullptr;
}

ffi::Error NormSums(ffi::ThreadPool threads, F32 x, ffi::Result<F32> sum, ffi::Result<F32> squares) {
  Norm norm;
  if (const char* problem = describe(x.dimensions(), {}, {sum->dimensions(), squares->dimensions()}, 0, norm))
    return wrong(problem);
  return run(threads, [&](const Pool& pool) {
    norm_sums(pool, norm, x.typed_data(), sum->typed_data(), squares->typed_data());
  });
}

ffi::Error NormForward(ffi::ThreadPool threads, F32 x, F32 mean, F32 scale, F32 bias, ffi::RemainingArgs rest,
                       ffi::Result<F32> y, int64_t activation) {
  Norm norm;
  const float* more = nullptr;
  Dims added = x.dimensions();
  if (rest.size()) {
    auto buffer = rest.get<F32>(0);
    if (!buffer) return wrong("what is added must be float32");
    more = buffer->typed_data(), added = buffer->dimensions();
  }
  if (const char* problem = describe(x.dimensions(), {y->dimensions(), added},
                                     {mean.dimensions(), scale.dimensions(), bias.dimensions()}, activation, norm))
    return wrong(problem);
  return run(threads, [&](const Pool& pool) {
    norm_forward(pool, norm, x.typed_data(), mean.typed_data(), scale.typed_data(), bias.typed_data(), more, y->typed_data());
  });
}

ffi::Error NormGradientSums(ffi::ThreadPool threads, F32 g, F32 y, F32 x, F32 mean, ffi::Result<F32> sum,
                            ffi::Result<F32> product, int64_t activation) {
  Norm norm;
  if (const char* problem = describe(x.dimensions(), {g.dimensions(), y.dimensions()},
                                     {mean.dimensions(), sum->dimensions(), product->dimensions()}, activation, norm))
    return wrong(problem);
  return run(threads, [&](const Pool& pool) {
    norm_gradient_sums(pool, norm, g.typed_data(), y.typed_data(), x.typed_data(), mean.typed_data(), sum->typed_data(),
                       product->typed_data());
  });
}

ffi::Error NormBackward(ffi::ThreadPool threads, F32 g, F32 y, F32 x, F32 mean, F32 scale, F32 shift, F32 slope,
                        ffi::Result<F32> dx, ffi::RemainingRets rest, int64_t activation) {
  Norm norm;
  float* dz = nullptr;
  Dims wanted = x.dimensions();
  if (rest.size()) {
    auto buffer = rest.get<F32>(0);
    if (!buffer) return wrong("the gradient of what is added must be float32");
    dz = (*buffer)->typed_data(), wanted = (*buffer)->dimensions();
  }
  if (const char* problem =
          describe(x.dimensions(), {g.dimensions(), y.dimensions(), dx->dimensions(), wanted},
                   {mean.dimensions(), scale.dimensions(), shift.dimensions(), slope.dimensions()}, activation, norm))
    return wrong(problem);
  return run(threads, [&](const Pool& pool) {
    norm_backward(pool, norm, g.typed_data(), y.typed_data(), x.typed_data(), mean.typed_data(), scale.typed_data(),
                  shift.typed_data(), slope.typed_data(), dx->typed_data(), dz);
  });
}

// Fills in `s`, or says what is wrong with the dimensions of images, outputs and codes.
const char* describe(Dims x, Dims y, Dims code, MaxPool& s) {
  if (!sane(x) || x.size() != 4 || x[3] % 16) return "sizes out of range, or channels no multiple of 16";
  s = {x[0], x[1], x[2], x[3]};
  for (Dims dims : {y, code})
    if (!equal(dims, {s.n, s.rows(), s.columns(), s.channels})) return "output or codes have another shape";
  return nullptr;
}

ffi::Error MaxPoolForward(ffi::ThreadPool threads, F32 x, ffi::Result<F32> y, ffi::RemainingRets rest) {
  MaxPool s;
  uint8_t* code = nullptr;
  Dims wanted = y->dimensions();
  if (rest.size()) {
    auto buffer = rest.get<U8>(0);
    if (!buffer) return wrong("codes are uint8");
    code = (*buffer)->typed_data(), wanted = (*buffer)->dimensions();
  }
  if (const char* problem = describe(x.dimensions(), y->dimensions(), wanted, s)) return wrong(problem);
  return run(threads, [&](const Pool& pool) { max_pool_forward(pool, s, x.typed_data(), y->typed_data(), code); });
}

ffi::Error MaxPoolBackward(ffi::ThreadPool threads, U8 code, F32 g, ffi::Result<F32> dx) {
  MaxPool s;
  if (const char* problem = describe(dx->dimensions(), g.dimensions(), code.dimensions(), s)) return wrong(problem);
  return run(threads, [&](const Pool& pool) {
    max_pool_backward(pool, s, code.typed_data(), g.typed_data(), dx->typed_data());
  });
}

}  // namespace
}  // namespace cnnjax

extern "C" {
EXPORTED XLA_FFI_Error* CnnjaxPlainForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxPlainBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxDepthwiseForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxDepthwiseBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxNormSums(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxNormForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxNormGradientSums(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxNormBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxMaxPoolForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxMaxPoolBackward(XLA_FFI_CallFrame*);
}

#define CONV .Attr<int64_t>("stride").Attr<cnnjax::Dims>("padding")

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxPlainForward, cnnjax::PlainForward,
                              THREADS ARG ARG.RemainingArgs() RET CONV.Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxPlainBackward, cnnjax::PlainBackward, THREADS ARG ARG ARG RET.RemainingRets() CONV);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxDepthwiseForward, cnnjax::DepthwiseForward,
                              THREADS ARG ARG.RemainingArgs() RET CONV.Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxDepthwiseBackward, cnnjax::DepthwiseBackward, THREADS ARG ARG ARG RET RET CONV);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxNormSums, cnnjax::NormSums, THREADS ARG RET RET);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxNormForward, cnnjax::NormForward,
                              THREADS ARG ARG ARG ARG.RemainingArgs() RET.Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxNormGradientSums, cnnjax::NormGradientSums,
                              THREADS ARG ARG ARG ARG RET RET.Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxNormBackward, cnnjax::NormBackward,
                              THREADS ARG ARG ARG ARG ARG ARG ARG RET.RemainingRets().Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxMaxPoolForward, cnnjax::MaxPoolForward, THREADS ARG RET.RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxMaxPoolBackward, cnnjax::MaxPoolBackward, THREADS.Arg<cnnjax::U8>() ARG RET);
