// Tensors from Philox streams, the same for any number of threads; core/random.h says which words make which element.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/random.cpp"
#include <hwy/foreach_target.h>

#include <cmath>

#include "weft/core/cpu/elementwise-inl.h"
#include "weft/core/cpu/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

/// Elements made at a time; the words for them stay in the first-level cache.
inline constexpr int64_t random_chunk = 1024;

// Calls f(begin, n, words) for chunks of n elements from `begin` on, with the words of the stream that belong to them.
template <int64_t words_per_element, class F>
void for_each_chunk(int64_t numel, RandomKey key, F f) {
  constexpr int64_t chunks_per_thread = 8;
  parallel_for(ceil_div(numel, random_chunk), chunks_per_thread, [=](int64_t first, int64_t last) {
    alignas(64) uint32_t words[random_chunk * words_per_element];
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * random_chunk;
      const int64_t n = std::min(random_chunk, numel - begin);
      random_blocks(words, key, static_cast<uint64_t>(begin * words_per_element / 4), (n * words_per_element + 3) / 4);
      f(begin, n, words);
    }
  });
}

template <class T>
inline constexpr int64_t words_per = sizeof(T) / sizeof(uint32_t);

HWY_INLINE uint64_t bits_at(const uint32_t* words, int64_t i) { return uint64_t{words[2 * i + 1]} << 32 | words[2 * i]; }

// Uniform in [0, 1), in steps of 2^-24 or 2^-53.
template <class T>
HWY_INLINE T uniform_at(const uint32_t* words, int64_t i) {
  if constexpr (sizeof(T) == 4)
    return static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24F;
  else
    return static_cast<double>(static_cast<int64_t>(bits_at(words, i) >> 11)) * 0x1p-53;
}

// Uniform in (0, 1]: a logarithm's argument, with all bits of the stream for the sake of the tail.
template <class T>
HWY_INLINE T positive_at(const uint32_t* words, int64_t i) {
  if constexpr (sizeof(T) == 4)
    return (static_cast<float>(words[i]) + 0.5F) * 0x1p-32F;
  else
    return (static_cast<double>(static_cast<int64_t>(bits_at(words, i) >> 11)) + 0.5) * 0x1p-53;
}

void fill_uniform(Tensor& y, double low, double high, RandomKey key) {
  dispatch_float(y.dtype(), "rand", [&]<class T>() {
    T* out = y.data<T>();
    const T base = static_cast<T>(low), width = static_cast<T>(high - low);
    const T largest = std::nextafter(static_cast<T>(high), base);  // rounding must not reach `high`
    for_each_chunk<words_per<T>>(y.numel(), key, [=](int64_t begin, int64_t n, const uint32_t* words) HWY_ATTR {
      // Multiply-add rounds once on every machine, and so gives the same bits.
      for (int64_t i = 0; i < n; ++i) {
        const T value = std::fma(width, uniform_at<T>(words, i), base);
        out[begin + i] = value < largest ? value : largest;
      }
    });
  });
}

void fill_normal(Tensor& y, double mean, double std, RandomKey key) {
  dispatch_float(y.dtype(), "randn", [&]<class T>() {
    using S = Simd<T>;
    T* out = y.data<T>();
    for_each_chunk<words_per<T>>((y.numel() + 1) / 2 * 2, key,
                                 [=, numel = y.numel()](int64_t begin, int64_t n, const uint32_t* words) HWY_ATTR {
                                   constexpr int64_t most = random_chunk / 2;
                                   T u[most], v[most];
                                   const int64_t pairs = n / 2;
                                   for (int64_t j = 0; j < pairs; ++j) {
                                     u[j] = positive_at<T>(words, 2 * j);
                                     v[j] = uniform_at<T>(words, 2 * j + 1);
                                   }
                                   for (int64_t j = 0; j < pairs; j += S::lanes()) {
                                     const int64_t rest = pairs - j;
                                     const S radius = S(std) * sqrt(-2 * log(S::load_n(u + j, rest, 1)));
                                     const S angle = S(6.283185307179586) * S::load_n(v + j, rest);
                                     mul_add(radius, cos(angle), S(mean)).store_n(u + j, rest);
                                     mul_add(radius, sin(angle), S(mean)).store_n(v + j, rest);
                                   }
                                   T* to = out + begin;
                                   const int64_t whole = std::min(pairs, (numel - begin) / 2);
                                   for (int64_t j = 0; j < whole; ++j) {
                                     to[2 * j] = u[j];
                                     to[2 * j + 1] = v[j];
                                   }
                                   if (whole < pairs) to[2 * whole] = u[whole];
                                 });
  });
}

void fill_integers(Tensor& y, int64_t high, RandomKey key) {
  int64_t* out = y.data<int64_t>();
  for_each_chunk<2>(y.numel(), key, [=](int64_t begin, int64_t n, const uint32_t* words) {
    // The 64 bits as a fraction, times `high`: no value is favoured by more than 2^-64 of the whole.
    for (int64_t i = 0; i < n; ++i) {
      out[begin + i] = static_cast<int64_t>(static_cast<unsigned __int128>(bits_at(words, i)) * static_cast<uint64_t>(high) >> 64);
    }
  });
}

/// Calls f(last_dropped): words above it are kept. Nothing is dropped at p = 0, which no such word can say: all words become 1 then.
template <class F>
HWY_INLINE void with_threshold(double p, uint32_t* words, int64_t n, F f) {
  const uint64_t threshold = drop_threshold(p);
  if (threshold == 0) std::fill(words, words + n, 1U);
  f(threshold == 0 ? 0U : static_cast<uint32_t>(threshold - 1));
}

void fill_keep_mask(Tensor& y, double p, RandomKey key) {
  uint8_t* out = static_cast<uint8_t*>(y.raw());
  for_each_chunk<1>(y.numel(), key, [=](int64_t begin, int64_t n, uint32_t* words) HWY_ATTR {
    with_threshold(p, words, n, [=](uint32_t last_dropped) HWY_ATTR {
      uint8_t* HWY_RESTRICT to = out + begin;
      for (int64_t i = 0; i < n; ++i) to[i] = words[i] > last_dropped ? 1 : 0;
    });
  });
}

void dropout(Tensor& y, const Tensor& x, double p, RandomKey key) {
  dispatch_float(x.dtype(), "dropout", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    const T scale = static_cast<T>(1 / (1 - p));
    for_each_chunk<1>(y.numel(), key, [=](int64_t begin, int64_t n, uint32_t* words) HWY_ATTR {
      with_threshold(p, words, n, [=](uint32_t last_dropped) HWY_ATTR {
        T* HWY_RESTRICT to = out + begin;
        const T* from = in + begin;
        for (int64_t i = 0; i < n; ++i) {
          const T scaled = from[i] * scale;
          to[i] = words[i] > last_dropped ? scaled : T(0);
        }
      });
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(fill_uniform);
HWY_EXPORT(fill_normal);
HWY_EXPORT(fill_integers);
HWY_EXPORT(fill_keep_mask);
HWY_EXPORT(dropout);

void fill_uniform(Tensor& y, double low, double high, RandomKey key) { HWY_DYNAMIC_DISPATCH(fill_uniform)(y, low, high, key); }
void fill_normal(Tensor& y, double mean, double std, RandomKey key) { HWY_DYNAMIC_DISPATCH(fill_normal)(y, mean, std, key); }
void fill_integers(Tensor& y, int64_t high, RandomKey key) { HWY_DYNAMIC_DISPATCH(fill_integers)(y, high, key); }
void fill_keep_mask(Tensor& y, double p, RandomKey key) { HWY_DYNAMIC_DISPATCH(fill_keep_mask)(y, p, key); }
void dropout(Tensor& y, const Tensor& x, double p, RandomKey key) { HWY_DYNAMIC_DISPATCH(dropout)(y, x, p, key); }

}  // namespace weft::cpu
#endif  // HWY_ONCE
