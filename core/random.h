// Counter-based random numbers (Philox 4x32-10): the same bits on every device, for any number of threads, in any order.
//
// J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
// Element e of a stream is a pure function of (seed, offset, e): a dropout mask can be drawn again in the backward instead of stored.
//
// Which words of the stream make which element: 32 bits (float32, masks, dropout): word e makes element e. 64 bits (float64, integers):
// words 2e and 2e + 1 are the low and high half of element e's bits. Uniforms are the upper 24 or 53 bits as a fraction. Normals come in
// pairs, sqrt(-2 log u) times cos(2 pi v) and sin(2 pi v) (Box-Muller): v is the uniform of element 2j + 1, and u = (w + 1/2) 2^-32 from
// all bits w of element 2j (float64: ((w >> 11) + 1/2) 2^-53), which is never 0.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "weft/core/tensor.h"

#ifdef __CUDACC__
#define WEFT_HOST_DEVICE __host__ __device__
#else
#define WEFT_HOST_DEVICE
#endif

namespace weft {

/// One Philox 4x32-10 block: 128 random bits from a 128-bit counter and a 64-bit key.
WEFT_HOST_DEVICE constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53U} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

/// Names one stream of random numbers. Kernels take it by value; whoever keeps it can draw the same numbers again.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t offset = 0;

  /// The block that holds 32-bit words 4 * index .. 4 * index + 3 of the stream.
  WEFT_HOST_DEVICE constexpr std::array<uint32_t, 4> block(uint64_t index) const {
    return philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(offset),
                   static_cast<uint32_t>(offset >> 32)},
                  {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  }
  /// 32-bit word `element` of the stream.
  WEFT_HOST_DEVICE constexpr uint32_t word(uint64_t element) const { return block(element / 4)[element % 4]; }
};

/// A word is kept by dropout of probability p iff it is >= drop_threshold(p); p = 1 keeps nothing (threshold 2^32).
WEFT_HOST_DEVICE constexpr uint64_t drop_threshold(double p) { return static_cast<uint64_t>(p * 4294967296.0); }

/// Hands out streams. Copyable state of two numbers, so checkpoints can save it.
class Generator {
 public:
  explicit Generator(uint64_t seed = 0, uint64_t offset = 0) : seed_(seed), offset_(offset) {}
  Generator(const Generator& other) : seed_(other.seed_), offset_(other.offset_.load()) {}
  Generator& operator=(const Generator& other) {
    seed_ = other.seed_;
    offset_ = other.offset_.load();
    return *this;
  }

  /// A fresh stream.
  RandomKey next() { return {seed_, offset_.fetch_add(1)}; }
  uint64_t seed() const { return seed_; }
  uint64_t offset() const { return offset_.load(); }

 private:
  uint64_t seed_;
  std::atomic<uint64_t> offset_;
};

/// The generator that ops use when none is given: the process-wide one, or the one of the innermost GeneratorScope of this thread.
Generator& default_generator();
/// Restarts the process-wide generator.
void manual_seed(uint64_t seed);

/// Makes `generator` the default of this thread while it lives. Checkpointing recomputes with the first pass's generator this way.
class GeneratorScope {
 public:
  explicit GeneratorScope(Generator& generator);
  ~GeneratorScope();
  GeneratorScope(const GeneratorScope&) = delete;
  GeneratorScope& operator=(const GeneratorScope&) = delete;

 private:
  Generator* previous_;
};

/// Uniform in [low, high).
Tensor rand(const Shape& shape, double low = 0, double high = 1, TensorOptions options = {}, Generator* generator = nullptr);
/// Normal with the given mean and standard deviation (Box-Muller).
Tensor randn(const Shape& shape, double mean = 0, double std = 1, TensorOptions options = {}, Generator* generator = nullptr);
/// The same in [0, 1), or with mean 0 and standard deviation 1, of another dtype: `randn(shape, {.dtype = DType::float64})`.
inline Tensor rand(const Shape& shape, TensorOptions options, Generator* generator = nullptr) {
  return rand(shape, 0, 1, options, generator);
}
inline Tensor randn(const Shape& shape, TensorOptions options, Generator* generator = nullptr) {
  return randn(shape, 0, 1, options, generator);
}
/// Uniform integers in [0, high), int64.
Tensor randint(int64_t high, const Shape& shape, Device device = default_device(), Generator* generator = nullptr);
/// Bool tensor: true with probability 1 - p.
Tensor keep_mask(const Shape& shape, double p, RandomKey key, Device device = default_device());

}  // namespace weft
