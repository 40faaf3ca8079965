// What XLA calls: checks shapes, then computes. And what this CPU can do.
#include <array>
#include <vector>

#include "adam.h"
#include "calls.h"
#include "conv.h"
#include "dense.h"
#include "orthogonal.h"
#include "sample.h"

namespace cnnjax {
namespace {

// Fills in the layers' shapes, or says what is wrong. weights: those of each layer, in sequence.
const char* describe(const ffi::AnyBuffer& x, const std::vector<Dims>& weights, Dims paddings, Dims pool_strides, float scale,
                     bool bfloat16, std::vector<Conv>& convs) {
  if (x.element_type() != ffi::F32 && x.element_type() != ffi::U8) return "images must be float32 or uint8";
  if (x.dimensions().size() != 4 || !sane(x.dimensions())) return "images are [n, h, w, c], with sizes in range";
  std::array<int64_t, 4> d;
  std::copy_n(x.dimensions().begin(), 4, d.begin());
  for (size_t i = 0; i < weights.size(); ++i) {
    const Dims k = weights[i];
    const int64_t padding = paddings[i], stride = pool_strides[i];
    if (k.size() != 4 || k[0] != 3 || k[1] != 3 || d[3] != k[2]) return "images and weights do not fit";
    if (!sane(k) || k[3] % 16) return "sizes out of range, or output channels no multiple of 16";
    if (padding < 0 || padding > 1 || stride < 0 || stride > 2) return "padding is 0 or 1, pool_stride 0, 1 or 2";
    const Kind in = i || x.element_type() == ffi::F32 ? Kind::kFloat : Kind::kByte;
    const Conv conv{d[0], d[1], d[2], d[3], k[3], padding, stride, in, i ? 1.f : scale, bfloat16};
    const int64_t least = stride ? 2 : 1;
    if (conv.conv_rows() < least || conv.conv_columns() < least) return "images are too small";
    convs.push_back(conv);
    d = {conv.n, conv.rows(), conv.columns(), conv.co};
    if (!sane({d.data(), 4})) return "sizes out of range";
  }
  return nullptr;
}

bool is_output(Dims y, const Conv& conv) { return equal(y, {conv.n, conv.rows(), conv.columns(), conv.co}); }

// Whether numbers may be of this type.
bool is_number(ffi::DataType type, bool bfloat16) { return type == ffi::F32 || (type == ffi::BF16 && keeps_rounded(bfloat16)); }

// Arguments: images, weights and biases of each layer. Results: the last output, of one type or the other; or what the gradients
// need as well, all outputs, in bfloat16 where they may be, then the codes of the layers with a pool.
ffi::Error ConvForward(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::RemainingArgs rest, ffi::RemainingRets results,
                       Dims paddings, Dims pool_strides, float scale, bool bfloat16) {
  const size_t count = paddings.size();
  const size_t pools = std::count_if(pool_strides.begin(), pool_strides.end(), [](int64_t stride) { return stride > 0; });
  if (!count || pool_strides.size() != count || rest.size() != 2 * count) return wrong("layers, weights and biases do not fit");
  const bool keep = results.size() > 1;
  if (results.size() != (keep ? count + pools : 1)) return wrong("layers and outputs do not fit");
  std::vector<Layer> layers(count);
  std::vector<Dims> shapes;
  for (size_t i = 0; i < count; ++i) {
    const auto w = rest.get<F32>(2 * i), b = rest.get<F32>(2 * i + 1);
    if (!w || !b) return wrong("weights and biases must be float32");
    shapes.push_back(w->dimensions());
    if (w->dimensions().size() != 4 || !equal(b->dimensions(), {w->dimensions()[3]})) return wrong("biases do not fit");
    layers[i].w = w->typed_data(), layers[i].b = b->typed_data();
  }
  std::vector<Conv> convs;
  if (const char* problem = describe(x, shapes, paddings, pool_strides, scale, bfloat16, convs)) return wrong(problem);
  for (size_t i = 0, code = count; i < count; ++i) {
    layers[i].conv = convs[i];
    if (!keep && i + 1 < count) continue;
    auto y = results.get<ffi::AnyBuffer>(keep ? i : 0);
    if (!y || !is_output((*y)->dimensions(), convs[i])) return wrong("output has another shape");
    const bool rounded = (*y)->element_type() == ffi::BF16;
    if (!is_number((*y)->element_type(), bfloat16) || (i + 1 < count && rounded != keeps_rounded(bfloat16)))
      return wrong("output has another type");
    if (rounded) layers[i].rounded = static_cast<uint16_t*>((*y)->untyped_data());
    else layers[i].y = static_cast<float*>((*y)->untyped_data());
    if (!keep || !pool_strides[i]) continue;
    auto codes = results.get<U8>(code++);
    if (!codes || !is_output((*codes)->dimensions(), convs[i])) return wrong("codes do not fit");
    layers[i].code = (*codes)->typed_data();
  }
  return run(threads, [&](const Pool& pool) { forward(pool, layers.data(), count, x.untyped_data()); });
}

// Arguments: images; weights of each layer; outputs of all but the last, whose output is there where it has no pool; the codes;
// the gradient of the last output. Results: gradients of each layer's weights and biases; that of the images, if wanted.
ffi::Error ConvBackward(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::RemainingArgs rest, ffi::RemainingRets results,
                        Dims paddings, Dims pool_strides, float scale, bool bfloat16) {
  const size_t count = paddings.size();
  const size_t pools = std::count_if(pool_strides.begin(), pool_strides.end(), [](int64_t stride) { return stride > 0; });
  if (!count || pool_strides.size() != count) return wrong("layers do not fit");
  const size_t outputs = pool_strides[count - 1] ? count - 1 : count;
  if (rest.size() != count + outputs + pools + 1) return wrong("layers, weights and what the forward pass kept do not fit");
  if (results.size() != 2 * count && results.size() != 2 * count + 1) return wrong("layers and gradients do not fit");
  std::vector<LayerGradient> layers(count);
  std::vector<Dims> shapes;
  for (size_t i = 0; i < count; ++i) {
    const auto w = rest.get<F32>(i);
    if (!w) return wrong("weights must be float32");
    shapes.push_back(w->dimensions()), layers[i].w = w->typed_data();
  }
  std::vector<Conv> convs;
  if (const char* problem = describe(x, shapes, paddings, pool_strides, scale, bfloat16, convs)) return wrong(problem);
  const void* in = x.untyped_data();
  for (size_t i = 0, code = count + outputs; i < count; ++i) {
    const Conv& conv = layers[i].conv = convs[i];
    layers[i].x = in;
    if (i && keeps_rounded(bfloat16)) layers[i].conv.in = Kind::kBfloat16;
    if (i < outputs) {
      const auto y = rest.get<ffi::AnyBuffer>(count + i);
      if (!y || !is_output(y->dimensions(), conv)) return wrong("what the forward pass kept does not fit");
      const bool rounded = y->element_type() == ffi::BF16;
      if (!is_number(y->element_type(), bfloat16) || (i + 1 < count && rounded != keeps_rounded(bfloat16)))
        return wrong("what the forward pass kept has another type");
      in = layers[i].kept = y->untyped_data();
      layers[i].kind = rounded ? Kind::kBfloat16 : Kind::kFloat;
    }
    if (conv.pool_stride) {
      const auto codes = rest.get<U8>(code++);
      if (!codes || !is_output(codes->dimensions(), conv)) return wrong("what the forward pass kept does not fit");
      layers[i].kept = codes->typed_data(), layers[i].kind = Kind::kByte;
    }
    auto dw = results.get<F32>(2 * i), db = results.get<F32>(2 * i + 1);
    if (!dw || !db || !equal((*dw)->dimensions(), {3, 3, conv.ci, conv.co}) || !equal((*db)->dimensions(), {conv.co}))
      return wrong("gradients have other shapes");
    layers[i].dw = (*dw)->typed_data(), layers[i].db = (*db)->typed_data();
  }
  const auto g = rest.get<ffi::AnyBuffer>(rest.size() - 1);
  if (!g || !is_number(g->element_type(), bfloat16) || !is_output(g->dimensions(), convs.back()))
    return wrong("the gradient of the output has another shape or type");
  float* dx = nullptr;
  if (results.size() > 2 * count) {
    auto buffer = results.get<F32>(2 * count);
    const Conv& conv = convs[0];
    if (!buffer || !equal((*buffer)->dimensions(), {conv.n, conv.h, conv.w, conv.ci}))
      return wrong("the gradient of the images has another shape");
    dx = (*buffer)->typed_data();
  }
  return run(threads, [&](const Pool& pool) { backward(pool, layers.data(), count, g->untyped_data(), g->element_type() == ffi::BF16, dx); });
}

bool fit(Dims x, Dims w, Dims y) {
  return x.size() == 2 && w.size() == 2 && sane(x) && sane(w) && sane(y) && x[1] == w[0] && w[0] % 16 == 0
         && w[1] % 16 == 0 && equal(y, {x[0], w[1]});
}

ffi::Error DenseForward(ffi::ThreadPool threads, ffi::AnyBuffer x, F32 w, ffi::Result<F32> y, bool bfloat16) {
  const Dims d = x.dimensions(), k = w.dimensions();
  if (!fit(d, k, y->dimensions())) return wrong("x and w of a dense layer do not fit, or are no multiples of 16");
  if (!is_number(x.element_type(), bfloat16)) return wrong("x of a dense layer has another type");
  const Dense dense{d[0], k[0], k[1], bfloat16, x.element_type() == ffi::BF16};
  return run(threads, [&](const Pool& pool) {
    dense_forward(pool, dense, x.untyped_data(), w.typed_data(), y->typed_data());
  });
}

ffi::Error DenseBackward(ffi::ThreadPool threads, ffi::AnyBuffer x, F32 w, F32 g, ffi::Result<ffi::AnyBuffer> dx,
                         ffi::Result<F32> dw, bool bfloat16) {
  const Dims d = x.dimensions(), k = w.dimensions();
  if (!fit(d, k, g.dimensions()) || !equal(dx->dimensions(), {d[0], d[1]}) || !equal(dw->dimensions(), {k[0], k[1]}))
    return wrong("x, w and the gradients of a dense layer do not fit, or are no multiples of 16");
  if (!is_number(x.element_type(), bfloat16) || dx->element_type() != x.element_type())
    return wrong("x of a dense layer, or its gradient, has another type");
  const Dense dense{d[0], k[0], k[1], bfloat16, x.element_type() == ffi::BF16};
  return run(threads, [&](const Pool& pool) {
    dense_backward(pool, dense, x.untyped_data(), w.typed_data(), g.typed_data(), dx->untyped_data(), dw->typed_data());
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

ffi::Error AdamStep(ffi::ThreadPool threads, F32 factors, F32 g, F32 p, F32 m, F32 v, ffi::Result<F32> p_out,
                    ffi::Result<F32> m_out, ffi::Result<F32> v_out, float beta1, float beta2, float epsilon, float decay) {
  if (!equal(factors.dimensions(), {4})) return wrong("there are four factors of Adam");
  const int64_t n = g.element_count();
  const F32* in[] = {&p, &m, &v};
  ffi::Result<F32>* out[] = {&p_out, &m_out, &v_out};
  for (int i = 0; i < 3; ++i)
    if (int64_t(in[i]->element_count()) != n || in[i]->typed_data() != (*out[i])->typed_data())
      return wrong("parameters and moments have another size than gradients, or are not changed in place");
  const float* f = factors.typed_data();
  const Adam step{beta1, beta2, epsilon, decay, f[0], f[1], f[2], f[3]};
  return run(threads, [&](const Pool& pool) {
    adam(pool, step, n, g.typed_data(), p_out->typed_data(), m_out->typed_data(), v_out->typed_data());
  });
}

ffi::Error Orthogonal(ffi::ThreadPool threads, F32 x, ffi::Result<F32> y) {
  const Dims d = x.dimensions();
  if (d.size() != 2 || !sane(d) || d[0] < d[1] || d[1] % 16) return wrong("columns are a multiple of 16, and no more than the rows");
  if (!equal(y->dimensions(), {d[0], d[1]})) return wrong("matrix and result do not fit");
  return run(threads, [&](const Pool& pool) { orthogonal(pool, {d[0], d[1]}, x.typed_data(), y->typed_data()); });
}

}  // namespace
}  // namespace cnnjax

extern "C" {
EXPORTED XLA_FFI_Error* CnnjaxAdam(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxConvForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxConvBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxDenseForward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxDenseBackward(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxOrthogonal(XLA_FFI_CallFrame*);
EXPORTED XLA_FFI_Error* CnnjaxSample(XLA_FFI_CallFrame*);
EXPORTED const char* CnnjaxCpu();
EXPORTED void CnnjaxLimitThreads(int64_t);
EXPORTED const char* CnnjaxSources();
}

#define LAYERS \
  THREADS.Arg<ffi::AnyBuffer>().RemainingArgs().RemainingRets().Attr<cnnjax::Dims>("paddings") \
      .Attr<cnnjax::Dims>("pool_strides").Attr<float>("scale").Attr<bool>("bfloat16")

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxConvForward, cnnjax::ConvForward, LAYERS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxConvBackward, cnnjax::ConvBackward, LAYERS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxDenseForward, cnnjax::DenseForward, THREADS.Arg<ffi::AnyBuffer>() ARG RET.Attr<bool>("bfloat16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxDenseBackward, cnnjax::DenseBackward,
                              THREADS.Arg<ffi::AnyBuffer>() ARG ARG.Ret<ffi::AnyBuffer>() RET.Attr<bool>("bfloat16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxSample, cnnjax::Sample,
                              THREADS.Arg<ffi::AnyBuffer>().Arg<ffi::Buffer<ffi::S32>>() RET.Attr<int64_t>("bits")
                                  .Attr<bool>("nearest").Attr<int64_t>("fill"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxAdam, cnnjax::AdamStep,
                              THREADS ARG ARG ARG ARG ARG RET RET RET.Attr<float>("beta1").Attr<float>("beta2")
                                  .Attr<float>("epsilon").Attr<float>("decay"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxOrthogonal, cnnjax::Orthogonal, THREADS ARG RET);

// From now on no call uses more threads.
void CnnjaxLimitThreads(int64_t threads) { cnnjax::most_threads = std::max<int64_t>(1, threads); }

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
