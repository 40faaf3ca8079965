// What the handlers of XLA's calls have in common.
#pragma once

#include <algorithm>
#include <new>
#include <string>

#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace cnnjax {
namespace {

using F32 = ffi::Buffer<ffi::F32>;
using U8 = ffi::Buffer<ffi::U8>;
using Dims = ffi::Span<const int64_t>;

// Far beyond any image; products of a few of them, and bytes of a buffer, stay in 64 bits.
constexpr int64_t kLargest = int64_t(1) << 24, kMostElements = int64_t(1) << 40;

bool equal(Dims dims, std::initializer_list<int64_t> wanted) {
  return dims.size() == wanted.size() && std::equal(wanted.begin(), wanted.end(), dims.begin());
}

bool same(Dims a, Dims b) { return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()); }

bool sane(Dims dims) {
  int64_t elements = 1;
  for (int64_t d : dims) {
    if (d < 1 || d > kLargest || elements > kMostElements / d) return false;
    elements *= d;
  }
  return true;
}

ffi::Error wrong(const char* what) { return ffi::Error::InvalidArgument(std::string("cnnjax kernels: ") + what); }

template <typename Work>
ffi::Error run(ffi::ThreadPool& threads, const Work& work) {
  try {
    work(Pool{std::min<int64_t>(threads.num_threads(), most_threads)});
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "cnnjax kernels: out of memory");
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace cnnjax

#define EXPORTED __attribute__((visibility("default")))
#define THREADS ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
#define ARG .Arg<cnnjax::F32>()
#define RET .Ret<cnnjax::F32>()
