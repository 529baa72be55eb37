// Tensors from Philox streams, with the same bits as on the CPU; core/random.h says which words make which element. The half types get
// the float32 numbers, rounded.
//
// A stream is an operand of `map`: nothing is read from memory, and dropout's mask is drawn again rather than stored.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

// The word of a block without an array in memory.
__device__ inline uint32_t word_of(const std::array<uint32_t, 4>& block, int64_t i) {
  const uint32_t low = (i & 1) == 0 ? block[0] : block[1], high = (i & 1) == 0 ? block[2] : block[3];
  return (i & 2) == 0 ? low : high;
}
__device__ inline uint64_t pair_of(const std::array<uint32_t, 4>& block, int64_t i) {
  return (i & 1) == 0 ? uint64_t{block[1]} << 32 | block[0] : uint64_t{block[3]} << 32 | block[2];
}

/// Element i is 32 or 64 bits of the stream.
template <class Bits>
struct Stream {
  static constexpr int per_block = 16 / sizeof(Bits);
  RandomKey key;

  template <int N>
  bool packs() const {
    return true;
  }
  __device__ static Bits part(const std::array<uint32_t, 4>& block, int64_t i) {
    if constexpr (per_block == 4) {
      return word_of(block, i);
    } else {
      return pair_of(block, i);
    }
  }
  __device__ Bits load(int64_t i) const { return part(key.block(static_cast<uint64_t>(i / per_block)), i); }
  template <int N>
  __device__ void load_all(int64_t i, Bits (&x)[N]) const {
    constexpr int step = std::min(N, per_block);  // i is a multiple of N, so these share a block
    for (int first = 0; first < N; first += step) {
      const auto block = key.block(static_cast<uint64_t>((i + first) / per_block));
      for (int j = 0; j < step; ++j) x[first + j] = part(block, i + first + j);
    }
  }
  using Value = Bits;
};

// What makes a float32 or a float64.
template <class A>
using BitsFor = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;

// Uniform in [0, 1), in steps of 2^-24 or 2^-53.
__device__ inline float uniform(uint32_t bits) { return static_cast<float>(static_cast<int32_t>(bits >> 8)) * 0x1p-24F; }
__device__ inline double uniform(uint64_t bits) { return static_cast<double>(static_cast<int64_t>(bits >> 11)) * 0x1p-53; }

// Uniform in (0, 1]: a logarithm's argument.
__device__ inline float positive(uint32_t bits) { return (static_cast<float>(bits) + 0.5F) * 0x1p-32F; }
__device__ inline double positive(uint64_t bits) { return (static_cast<double>(static_cast<int64_t>(bits >> 11)) + 0.5) * 0x1p-53; }

template <class A>
struct Uniform {
  A base, width, largest;
  __device__ A operator()(BitsFor<A> bits) const {
    const A value = mul_add(width, uniform(bits), base);  // rounded once, as on the CPU
    return value < largest ? value : largest;
  }
};

/// Normal numbers in pairs, from the bits of both elements.
template <class A>
struct Normals {
  Stream<BitsFor<A>> stream;
  A mean, std;

  template <int N>
  bool packs() const {
    return true;
  }
  __device__ A load(int64_t i) const {
    A pair[2];
    load_all<2>(i / 2 * 2, pair);
    return i % 2 == 0 ? pair[0] : pair[1];
  }
  template <int N>
  __device__ void load_all(int64_t i, A (&x)[N]) const {
    BitsFor<A> bits[N];
    stream.load_all(i, bits);
    for (int j = 0; j < N; j += 2) {
      const A radius = std * weft::sqrt(A(-2) * weft::log(positive(bits[j]))), angle = A(6.283185307179586) * uniform(bits[j + 1]);
      x[j] = mul_add(radius, weft::cos(angle), mean);
      x[j + 1] = mul_add(radius, weft::sin(angle), mean);
    }
  }
  using Value = A;
};

// The 64 bits as a fraction, times `high`.
struct Scaled {
  uint64_t high;
  __device__ int64_t operator()(uint64_t bits) const {
    return static_cast<int64_t>(static_cast<uint64_t>(static_cast<unsigned __int128>(bits) * high >> 64));
  }
};

struct Keep {
  uint64_t threshold;
  __device__ uint8_t operator()(uint32_t word) const { return word >= threshold ? 1 : 0; }
};

template <class A>
struct Dropout {
  uint64_t threshold;
  A scale;
  __device__ A operator()(A x, uint32_t word) const { return word >= threshold ? x * scale : A(0); }
};

// The largest T below `high`, or `high` itself if that is `low`.
template <class T>
acc_t<T> largest_below(double high, double low) {
  using A = acc_t<T>;
  if constexpr (is_half<T>) {
    const auto most = static_cast<A>(high);
    T x(most);
    if (static_cast<A>(x) < most || most == static_cast<A>(low)) return static_cast<A>(x);
    // Numbers of one sign are in the order of their bits.
    x.bits = static_cast<uint16_t>(x.bits == 0 ? 0x8001 : (x.bits & 0x8000U) != 0 ? x.bits + 1 : x.bits - 1);
    return static_cast<A>(x);
  } else {
    return std::nextafter(static_cast<A>(high), static_cast<A>(low));
  }
}

}  // namespace

void fill_uniform(Tensor& y, double low, double high, RandomKey key) {
  dispatch_compute(y.dtype(), "rand", [&]<class T>() {
    using A = acc_t<T>;
    const Uniform<A> f{static_cast<A>(low), static_cast<A>(high - low), largest_below<T>(high, low)};
    map<pack_size<T>, T>(y, f, Stream<BitsFor<A>>{key});
  });
}

void fill_normal(Tensor& y, double mean, double std, RandomKey key) {
  dispatch_compute(y.dtype(), "randn", [&]<class T>() {
    using A = acc_t<T>;
    map<pack_size<T>, T>(y, Same(), Normals<A>{{key}, static_cast<A>(mean), static_cast<A>(std)});
  });
}

void fill_integers(Tensor& y, int64_t high, RandomKey key) {
  constexpr int per_pack = 2;
  map<per_pack, int64_t>(y, Scaled{static_cast<uint64_t>(high)}, Stream<uint64_t>{key});
}

void fill_keep_mask(Tensor& y, double p, RandomKey key) {
  constexpr int per_pack = 16;
  map<per_pack, uint8_t>(y, Keep{drop_threshold(p)}, Stream<uint32_t>{key});
}

void dropout(Tensor& y, const Tensor& x, double p, RandomKey key) {
  dispatch_compute(y.dtype(), "dropout", [&]<class T>() {
    using A = acc_t<T>;
    map<pack_size<T>, T>(y, Dropout<A>{drop_threshold(p), static_cast<A>(1 / (1 - p))}, Dense<T>(x), Stream<uint32_t>{key});
  });
}

}  // namespace weft::cuda
