#include "weft/core/cuda/emulated/mma.h"

#include <cstring>
#include <memory>
#include <vector>

namespace weft::emulated {
namespace {

float widen(float16 x) {
  // Through a table: a product reads 64 elements per lane.
  static const std::vector<float>* table = [] {
    auto* all = new std::vector<float>(1 << 16);
    for (uint32_t i = 0; i < all->size(); ++i) {
      float16 value;
      value.bits = static_cast<uint16_t>(i);
      (*all)[i] = static_cast<float>(value);
    }
    return all;
  }();
  return (*table)[x.bits];
}
float widen(bfloat16 x) { return static_cast<float>(x); }

template <class T>
float element(uint32_t word, int half) {
  T x;
  x.bits = static_cast<uint16_t>(word >> (16 * half));
  return widen(x);
}

constexpr int bytes_per_copy = 16;

struct Copy {
  uintptr_t to;
  const void* from;
  bool inside;
  int group;
};

/// A thread's copies on their way.
struct Copies {
  std::vector<Copy> pending;
  int group = 0;  // that the next copy belongs to
};

Copies& copies() {
  std::shared_ptr<void>& storage = thread_storage();
  if (!storage) storage = std::make_shared<Copies>();
  return *static_cast<Copies*>(storage.get());
}

CopyTime copy_time = CopyTime::at_wait;

void carry_out(const Copy& copy) {
  if (copy.inside) {
    std::memcpy(reinterpret_cast<void*>(copy.to), copy.from, bytes_per_copy);
  } else {
    std::memset(reinterpret_cast<void*>(copy.to), 0, bytes_per_copy);
  }
}

}  // namespace

template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Location& at) {
  const uint32_t words[] = {a[0], a[1], a[2], a[3], b0, b1};
  const Lanes& lanes = warp_exchange(0xffffffffU, words, 6, "mma", at);
  const int g = lane() / 4, c = 2 * (lane() % 4);
  // Element (row, k) of a is in lane 4 (row % 8) + k % 8 / 2, register row / 8 + 2 (k / 8); (k, column) of b in lane 4 column + k % 8 / 2,
  // register k / 8.
  float left[2][16], right[2][16];
  for (int i = 0; i < 2; ++i) {
    for (int k = 0; k < 16; ++k) {
      left[i][k] = element<T>(lanes.word[4 * g + k % 8 / 2][i + 2 * (k / 8)], k % 2);
      right[i][k] = element<T>(lanes.word[4 * (c + i) + k % 8 / 2][4 + k / 8], k % 2);
    }
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += left[i][k] * right[j][k];
      d[2 * i + j] += sum;
    }
  }
}
template void mma<float16>(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t, const Location&);
template void mma<bfloat16>(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t, const Location&);

template <bool transposed, int Matrices>
void load_matrices(uint32_t (&r)[Matrices], uintptr_t row, const Location& at) {
  uint32_t words[4] = {};
  if (lane() < 8 * Matrices) {
    check_alignment(reinterpret_cast<const void*>(row), sizeof(words));
    std::memcpy(words, reinterpret_cast<const void*>(row), sizeof(words));
  }
  const Lanes& lanes = warp_exchange(0xffffffffU, words, 4, transposed ? "ldmatrix.trans" : "ldmatrix", at);
  const int g = lane() / 4, pair = lane() % 4;
  for (int m = 0; m < Matrices; ++m) {
    if constexpr (transposed) {
      const auto entry = [&](int i) { return lanes.word[8 * m + i][g / 2] >> (16 * (g % 2)) & 0xffffU; };
      r[m] = entry(2 * pair) | entry(2 * pair + 1) << 16;
    } else {
      r[m] = lanes.word[8 * m + g][pair];
    }
  }
}
template void load_matrices<false, 2>(uint32_t (&)[2], uintptr_t, const Location&);
template void load_matrices<false, 4>(uint32_t (&)[4], uintptr_t, const Location&);
template void load_matrices<true, 2>(uint32_t (&)[2], uintptr_t, const Location&);
template void load_matrices<true, 4>(uint32_t (&)[4], uintptr_t, const Location&);

void copy_async(uintptr_t to, const void* from, bool inside) {
  check_alignment(reinterpret_cast<const void*>(to), bytes_per_copy);
  check_alignment(from, bytes_per_copy);
  const Copy copy{to, from, inside, copies().group};
  if (copy_time == CopyTime::at_once) return carry_out(copy);
  copies().pending.push_back(copy);
}
void commit_copies() { ++copies().group; }
void wait_copies(int newest) {
  Copies& own = copies();
  size_t done = 0;
  while (done < own.pending.size() && own.pending[done].group < own.group - newest) carry_out(own.pending[done++]);
  own.pending.erase(own.pending.begin(), own.pending.begin() + static_cast<std::ptrdiff_t>(done));
}
void set_copy_time(CopyTime time) { copy_time = time; }

}  // namespace weft::emulated
