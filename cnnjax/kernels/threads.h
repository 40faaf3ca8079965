// Helper threads for the kernels, and memory that each thread keeps.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

namespace cnnjax {

struct Pool {
  int64_t threads;  // that a call may use, its own among them
};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// How many threads a call may use at most: a quota of processors may allow fewer than XLA has threads.
inline std::atomic<int64_t> most_threads{int64_t(1) << 20};

constexpr int64_t kTurns = 20000;  // of waiting without sleep, some hundred microseconds

// One turn of waiting for another thread. It begins without sleep, and ends so that it costs a quota of processors next to nothing.
inline void wait_a_turn(int64_t turn) {
  if (turn >= kTurns) std::this_thread::sleep_for(std::chrono::microseconds(50));
  else if (turn % 32) pause();
  else std::this_thread::yield();
}

// The core that this thread runs on, -1 where the system does not say.
inline int core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// A thread that stays awake for a moment after its work: the next kernel of a step comes within microseconds, and to wake a
// thread takes longer than that.
class Helper {
 public:
  Helper() { std::thread([this] { serve(); }).detach(); }

  void begin(void (*work)(void*), void* context) {
    work_ = work, context_ = context;
    if (core_.load() == core()) leave_core();
    busy_.store(true);
    if (!asleep_.load()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_one();
  }
  void wait() const {
    for (int64_t turn = 0; busy_.load(std::memory_order_acquire); ++turn) wait_a_turn(turn);
  }

 private:
  // Linux lets two threads take turns on one core for many milliseconds while another is idle: a third of a step's time.
  void leave_core() {
#if defined(__linux__)
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores)) return;
    CPU_CLR(core(), &cores);
    if (CPU_COUNT(&cores)) sched_setaffinity(thread_.load(), sizeof cores, &cores);
#endif
  }

  void serve() {
#if defined(__linux__)
    thread_.store(gettid());
#endif
    for (int64_t turn = 0;; ++turn) {
      if (turn % 32 == 0) core_.store(core());
      if (busy_.load(std::memory_order_acquire)) {
        work_(context_);
        busy_.store(false, std::memory_order_release);
        turn = 0;
      } else if (turn < kTurns) {
        wait_a_turn(turn);
      } else {
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.store(true);
        wake_.wait(lock, [this] { return busy_.load(); });
        asleep_.store(false);
      }
    }
  }

  std::atomic<bool> busy_{false}, asleep_{false};
  std::atomic<int> core_{-2}, thread_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  void (*work_)(void*) = nullptr;
  void* context_ = nullptr;
};

// All helpers of this process, for all kernels (so none of this lies in a nameless namespace, of which every source file has
// its own: the helpers of two crews take the cores from each other); one call at a time has them.
struct Crew {
  std::atomic<bool> taken{false};
  std::vector<Helper*> helpers;

  // Null where another call has it.
  static Crew* take(int64_t count) {
    static Crew* crew = new Crew;  // never destroyed: its threads do not end
    if (crew->taken.exchange(true, std::memory_order_acquire)) return nullptr;
    try {
      while (static_cast<int64_t>(crew->helpers.size()) < count) crew->helpers.push_back(new Helper);
    } catch (const std::exception&) {  // no memory, or no more threads for this process: fewer helpers
    }
    return crew;
  }
};

namespace {

// task(0) ... task(count - 1), in any order and at the same time; the caller works too. Throws std::bad_alloc where a task did.
// Each core has a part of its own, the same in all kernels of a step, and helps with the others when that is done: what it
// wrote it reads in the next kernel, and nobody else has it. To write what another core has read takes ten times as long.
template <typename Task>
void parallel_for(const Pool& pool, int64_t count, const Task& task) {
  struct alignas(64) Part {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  struct Progress {
    const Task& task;
    std::vector<Part> parts;
    std::atomic<bool> failed{false};
    void work() {
      const size_t own = std::max(0, core());
      for (size_t k = 0; k < parts.size(); ++k) {
        Part& part = parts[(own + k) % parts.size()];
        if (part.next.load(std::memory_order_relaxed) >= part.end) continue;  // to read costs less than to write, where many threads do
        for (int64_t i; (i = part.next.fetch_add(1)) < part.end;) {
          try {
            task(i);
          } catch (const std::bad_alloc&) {
            failed = true;
          }
        }
      }
    }
  };
  const int64_t threads = std::max<int64_t>(1, std::min(pool.threads, count));
  Progress progress{task, std::vector<Part>(threads)};
  for (int64_t k = 0; k < threads; ++k)
    progress.parts[k].next = count * k / threads, progress.parts[k].end = count * (k + 1) / threads;
  Crew* crew = threads > 1 ? Crew::take(threads - 1) : nullptr;
  const int64_t helpers = crew ? std::min<int64_t>(threads - 1, crew->helpers.size()) : 0;
  for (int64_t i = 0; i < helpers; ++i)
    crew->helpers[i]->begin([](void* p) { static_cast<Progress*>(p)->work(); }, &progress);
  progress.work();
  for (int64_t i = 0; i < helpers; ++i) crew->helpers[i]->wait();
  if (crew) crew->taken.store(false, std::memory_order_release);
  if (progress.failed) throw std::bad_alloc();
}

// What a thread keeps from call to call; every purpose has its own place.
enum class Scratch { kInput, kConvolved, kLine, kGradient, kGradientPairs, kPadded, kTiles, kImageTiles, kGradientTiles, kSums, kFrequencies,
                     kBetween, kOutput, kCount };

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
