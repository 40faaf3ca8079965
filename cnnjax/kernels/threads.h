// Work for a pool of threads that somebody else owns, and memory that each of its threads keeps.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <thread>

namespace cnnjax {

struct Pool {
  int64_t threads;
  std::function<void(std::function<void()>)> schedule;
};

namespace {

// task(0) ... task(count - 1), in any order and at the same time. The caller works too and waits only for what others
// have begun, so a pool that is busy, or has no thread at all, delays nothing for ever. Throws std::bad_alloc where a task did.
template <typename Task>
void parallel_for(const Pool& pool, int64_t count, const Task& task) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> failed{false};
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, count, &task] {  // a helper that comes too late gets no index and leaves `task` alone
    for (int64_t i; (i = progress->next.fetch_add(1)) < count;) {
      try {
        task(i);
      } catch (const std::bad_alloc&) {
        progress->failed = true;
      }
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  try {
    for (int64_t helper = 1; helper < std::min(pool.threads, count); ++helper) pool.schedule(work);
  } catch (const std::bad_alloc&) {  // fewer helpers then; to leave now would take `task` from those that are at work
  }
  work();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  if (progress->failed) throw std::bad_alloc();
}

// What a thread keeps from call to call; every purpose has its own place.
enum class Scratch { kInput, kConvolved, kLine, kGradient, kGradientPairs, kPadded, kCount };

inline float* scratch(Scratch purpose, int64_t floats) {
  struct Buffer {
    float* data = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffers[static_cast<int>(Scratch::kCount)];
  Buffer& buffer = buffers[static_cast<int>(purpose)];
  if (buffer.size < floats) {
    std::free(buffer.data);
    buffer.size = (floats + 1023) / 1024 * 1024;
    buffer.data = static_cast<float*>(std::aligned_alloc(64, buffer.size * sizeof(float)));
    if (!buffer.data) {
      buffer.size = 0;
      throw std::bad_alloc();
    }
  }
  return buffer.data;
}

inline char* scratch_bytes(Scratch purpose, int64_t bytes) {
  return reinterpret_cast<char*>(scratch(purpose, bytes / 4 + 16));
}

}  // namespace
}  // namespace cnnjax
