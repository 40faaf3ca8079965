// What XLA calls: checks shapes, then computes. And what this CPU can do.
#include "calls.h"
#include "conv.h"
#include "dense.h"
#include "sample.h"

namespace cnnjax {
namespace {

// Fills in `conv`, or says what is wrong; y: dimensions of the output.
const char* describe(const ffi::AnyBuffer& x, const F32& w, int64_t padding, int64_t pool_stride, Dims y, Conv& conv) {
  const Dims d = x.dimensions(), k = w.dimensions();
  if (x.element_type() != ffi::F32 && x.element_type() != ffi::U8) return "images must be float32 or uint8";
  if (d.size() != 4 || k.size() != 4 || k[0] != 3 || k[1] != 3 || d[3] != k[2]) return "images and weights do not fit";
  if (!sane(d) || !sane(k) || k[3] % 16) return "sizes out of range, or output channels no multiple of 16";
  if (padding < 0 || padding > 1 || pool_stride < 0 || pool_stride > 2) return "padding is 0 or 1, pool_stride 0, 1 or 2";
  conv = {d[0], d[1], d[2], d[3], k[3], padding, pool_stride, x.element_type() == ffi::U8, 1.f, false};
  const int64_t least = pool_stride ? 2 : 1;
  if (conv.conv_rows() < least || conv.conv_columns() < least) return "images are too small";
  if (!sane(y) || !equal(y, {conv.n, conv.rows(), conv.columns(), conv.co})) return "output has another shape";
  return nullptr;
}

ffi::Error ConvForward(ffi::ThreadPool threads, ffi::AnyBuffer x, F32 w, F32 b, ffi::Result<F32> y,
                       ffi::RemainingRets rest, int64_t padding, int64_t pool_stride, float scale, bool bfloat16) {
  Conv conv;
  if (const char* problem = describe(x, w, padding, pool_stride, y->dimensions(), conv)) return wrong(problem);
  if (!equal(b.dimensions(), {conv.co})) return wrong("biases do not fit");
  uint8_t* code = nullptr;
  if (rest.size()) {
    auto buffer = rest.get<U8>(0);
    if (!pool_stride || !buffer || !equal((*buffer)->dimensions(), {conv.n, conv.rows(), conv.columns(), conv.co}))
      return wrong("codes do not fit");
    code = (*buffer)->typed_data();
  }
  conv.scale = scale, conv.bfloat16 = bfloat16;
  return run(threads, [&](const Pool& pool) {
    conv_forward(pool, conv, x.untyped_data(), w.typed_data(), b.typed_data(), y->typed_data(), code);
  });
}

ffi::Error ConvBackward(ffi::ThreadPool threads, ffi::AnyBuffer x, F32 w, ffi::AnyBuffer kept, F32 g,
                        ffi::Result<F32> dw, ffi::Result<F32> db, ffi::RemainingRets rest, int64_t padding,
                        int64_t pool_stride, float scale, bool bfloat16) {
  Conv conv;
  if (const char* problem = describe(x, w, padding, pool_stride, g.dimensions(), conv)) return wrong(problem);
  if (!equal(kept.dimensions(), {conv.n, conv.rows(), conv.columns(), conv.co})
      || kept.element_type() != (pool_stride ? ffi::U8 : ffi::F32))
    return wrong("what the forward pass kept does not fit");
  if (!equal(dw->dimensions(), {3, 3, conv.ci, conv.co}) || !equal(db->dimensions(), {conv.co}))
    return wrong("gradients have other shapes");
  float* dx = nullptr;
  if (rest.size()) {
    auto buffer = rest.get<F32>(0);
    if (!buffer || !equal((*buffer)->dimensions(), {conv.n, conv.h, conv.w, conv.ci}))
      return wrong("the gradient of the images has another shape");
    dx = (*buffer)->typed_data();
  }
  conv.scale = scale, conv.bfloat16 = bfloat16;
  return run(threads, [&](const Pool& pool) {
    conv_backward(pool, conv, x.untyped_data(), w.typed_data(), kept.untyped_data(), g.typed_data(), dw->typed_data(),
                  db->typed_data(), dx);
  });
}

bool fit(Dims x, Dims w, Dims y) {
  return x.size() == 2 && w.size() == 2 && sane(x) && sane(w) && sane(y) && x[1] == w[0] && w[0] % 16 == 0
         && w[1] % 16 == 0 && equal(y, {x[0], w[1]});
}

ffi::Error DenseForward(ffi::ThreadPool threads, F32 x, F32 w, ffi::Result<F32> y, bool bfloat16) {
  const Dims d = x.dimensions(), k = w.dimensions();
  if (!fit(d, k, y->dimensions())) return wrong("x and w of a dense layer do not fit, or are no multiples of 16");
  return run(threads, [&](const Pool& pool) {
    dense_forward(pool, d[0], k[0], k[1], bfloat16, x.typed_data(), w.typed_data(), y->typed_data());
  });
}

ffi::Error DenseBackward(ffi::ThreadPool threads, F32 x, F32 w, F32 g, ffi::Result<F32> dx, ffi::Result<F32> dw,
                         bool bfloat16) {
  const Dims d = x.dimensions(), k = w.dimensions();
  if (!fit(d, k, g.dimensions()) || !equal(dx->dimensions(), {d[0], d[1]}) || !equal(dw->dimensions(), {k[0], k[1]}))
    return wrong("x, w and the gradients of a dense layer do not fit, or are no multiples of 16");
  return run(threads, [&](const Pool& pool) {
    dense_backward(pool, d[0], k[0], k[1], bfloat16, x.typed_data(), w.typed_data(), g.typed_data(), dx->typed_data(),
                   dw->typed_data());
  });
}

ffi::Error Sample(ffi::ThreadPool threads, ffi::AnyBuffer images, ffi::Buffer<ffi::S32> factors, ffi::Result<F32> y,
                  int64_t bits, bool nearest, int64_t fill) {
  const Dims d = images.dimensions();
  const bool bytes = images.element_type() == ffi::U8;
  if (!bytes && images.element_type() != ffi::F32) return wrong("images must be float32 or uint8");
  if (d.size() != 4 || !sane(d) || d[1] * d[2] > INT32_MAX / d[3]) return wrong("sizes of images out of range");
  if (!equal(factors.dimensions(), {d[0], 2, 3}) || !equal(y->dimensions(), {d[0], d[1], d[2], d[3]}))
    return wrong("images, factors and output do not fit");
  if (bits < 1 || bits > 30 || std::max(d[1], d[2]) > INT32_MAX >> bits) return wrong("positions need more than 31 bits");
  if (fill < 0 || fill > 3) return wrong("fill is 0 to 3");
  const Sampling sampling{d[0], d[1], d[2], d[3], bits, bytes, nearest, static_cast<Fill>(fill)};
  return run(threads, [&](const Pool& pool) {
    sample(pool, sampling, images.untyped_data(), factors.typed_data(), y->typed_data());
  });
}

}  // namespace
}  // namespace cnnjax

extern "C" {
EXPORTED XLA_FFI_Error* CnnjaxConvForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxConvBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxDenseForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxDenseBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxSample(XLA_FFI_CallFrame*);
EXPORTED const char* CnnjaxCpu();
EXPORTED const char* CnnjaxSources();
}

#define BLOCK \
  .Attr<int64_t>("padding").Attr<int64_t>("pool_stride").Attr<float>("scale").Attr<bool>("bfloat16")

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxConvForward, cnnjax::ConvForward,
                              THREADS.Arg<ffi::AnyBuffer>() ARG ARG RET.RemainingRets() BLOCK);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxConvBackward, cnnjax::ConvBackward,
                              THREADS.Arg<ffi::AnyBuffer>() ARG.Arg<ffi::AnyBuffer>() ARG RET RET.RemainingRets() BLOCK);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxDenseForward, cnnjax::DenseForward, THREADS ARG ARG RET.Attr<bool>("bfloat16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxDenseBackward, cnnjax::DenseBackward,
                              THREADS ARG ARG ARG RET RET.Attr<bool>("bfloat16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxSample, cnnjax::Sample,
                              THREADS.Arg<ffi::AnyBuffer>().Arg<ffi::Buffer<ffi::S32>>() RET.Attr<int64_t>("bits")
                                  .Attr<bool>("nearest").Attr<int64_t>("fill"));

// A digest of the files that this library is made of.
const char* CnnjaxSources() { return CNNJAX_SOURCES; }

// The instruction sets of this CPU and its operating system, best first, as the libraries are named.
const char* CnnjaxCpu() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return "sse2";
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq")
      || !__builtin_cpu_supports("avx512vl"))
    return "avx2 sse2";
  return __builtin_cpu_supports("avx512bf16") ? "avx512bf16 avx512 avx2 sse2" : "avx512 avx2 sse2";
#else
  return "neon";
#endif
}
