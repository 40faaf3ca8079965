// Memory that is kept from call to call, and shares of work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace cnnjax {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory for all threads of a call, not filled in, that is kept for later calls: given back it would be cleared anew, page by
// page, in every step.
class Memory {
 public:
  explicit Memory(int64_t floats) : block_(store().take(floats)) {}
  ~Memory() { store().give(block_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  float* get() const { return block_.data; }

 private:
  struct Block {
    float* data;
    int64_t size;
  };
  struct Store {
    std::mutex mutex;
    std::vector<Block> blocks;

    Block take(int64_t floats) {
      std::lock_guard<std::mutex> lock(mutex);
      blocks.reserve(blocks.size() + 64);  // so that `give` needs none
      auto fits = std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.size >= floats; });
      if (fits == blocks.end()) {
        constexpr int64_t kPage = 1 << 21;
        const int64_t size = (floats * 4 + kPage - 1) / kPage * kPage;
        auto* data = static_cast<float*>(std::aligned_alloc(kPage, size));
        if (!data) throw std::bad_alloc();
        if (blocks.size()) std::free(blocks.back().data), blocks.pop_back();
        return {data, size / 4};
      }
      const Block found = *fits;
      blocks.erase(fits);
      return found;
    }
    void give(Block block) {
      std::lock_guard<std::mutex> lock(mutex);
      blocks.push_back(block);
    }
  };
  static Store& store() {
    static Store* kept = new Store;  // never destroyed: XLA's threads do not end
    return *kept;
  }
  Block block_;
};

// [0, count) in parts of nearly equal size.
struct Parts {
  int64_t count, parts;
  Parts(int64_t count, int64_t most) : count(count), parts(ceil_div(count, std::max<int64_t>(1, most))) {}
  int64_t begin(int64_t part) const { return count * part / parts; }
  int64_t end(int64_t part) const { return begin(part + 1); }
  int64_t largest() const { return ceil_div(count, parts); }
};

// Into how many parts to divide output channels, so that all threads have work. What is computed does not depend on it.
inline Parts channel_parts(int64_t blocks, int64_t jobs, int64_t threads) {
  return Parts(blocks, std::max<int64_t>(2, ceil_div(blocks * jobs, std::max<int64_t>(16, 2 * threads))));
}

}  // namespace cnnjax
