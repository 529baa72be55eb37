// Rotary positions: one pass, a pair of features (a, b) -> (a cos - b sin, a sin + b cos). A thread turns the same pairs of several rows of
// one position: tables are wider than half types, so that they are read once for all of these.
#include "weft/core/cuda/common.cuh"

namespace weft::cuda {
namespace {

constexpr int rows_at_once = 4;

// x [outer, length, inner, width]. The rows of a position are counted through outer and inner.
struct RotaryRows {
  int64_t count = 0, inner = 0, length = 0, width = 0, pairs = 0, first = 0;  // count: rows of one position
  int64_t turns = 0, units = 0;                                               // threads of a row: those that turn pairs, and all
  Divisor by_units, by_length, by_inner;

  __device__ int64_t row(int64_t i, int64_t n) const {
    const int64_t outer = by_inner.divide(i);
    return (outer * length + n) * inner + i - outer * inner;
  }
};

// A thread has N features: N / 2 pairs of neighbours, or N / 2 features of each half, or N features that are copied.
template <class T, int N>
__global__ void rotary_kernel(T* y, const T* x, const acc_of<T>* cos, const acc_of<T>* sin, RotaryRows rows, int64_t threads,
                              bool half_split, acc_of<T> sign, bool packed) {
  using A = acc_of<T>;
  constexpr int P = N / 2;
  for (int64_t t = grid_start(); t < threads; t += grid_stride()) {
    const int64_t place = rows.by_units.divide(t), unit = t - place * rows.units;
    const int64_t group = rows.by_length.divide(place), n = place - group * rows.length;
    const bool turns = unit < rows.turns;
    const int64_t pair = unit * P, column = turns ? 0 : 2 * rows.pairs + (unit - rows.turns) * N;
    const int64_t pairs_left = rows.pairs - pair;
    A c[P] = {}, s[P] = {};
    if (turns) {
      const int64_t entry = (rows.first + n) * rows.pairs + pair;
      load_some(c, cos + entry, pairs_left, packed);
      load_some(s, sin + entry, pairs_left, packed);
    }
    WEFT_UNROLL
    for (int r = 0; r < rows_at_once; ++r) {
      const int64_t i = group * rows_at_once + r;
      if (i >= rows.count) continue;
      const int64_t begin = rows.row(i, n) * rows.width;
      const T* in = x + begin;
      T* out = y + begin;
      if (!turns) {
        A v[N];
        load_some(v, in + column, rows.width - column, packed);
        store_some(out + column, v, rows.width - column, packed);
      } else if (half_split) {
        A a[P], b[P], u[P], v[P];
        load_some(a, in + pair, pairs_left, packed);
        load_some(b, in + rows.pairs + pair, pairs_left, packed);
        WEFT_UNROLL
        for (int k = 0; k < P; ++k) {
          u[k] = a[k] * c[k] - b[k] * (sign * s[k]);
          v[k] = a[k] * (sign * s[k]) + b[k] * c[k];
        }
        store_some(out + pair, u, pairs_left, packed);
        store_some(out + rows.pairs + pair, v, pairs_left, packed);
      } else {
        A v[N];
        load_some(v, in + 2 * pair, 2 * pairs_left, packed);
        WEFT_UNROLL
        for (int k = 0; k < P; ++k) {
          const A a = v[2 * k], b = v[2 * k + 1];
          v[2 * k] = a * c[k] - b * (sign * s[k]);
          v[2 * k + 1] = a * (sign * s[k]) + b * c[k];
        }
        store_some(out + 2 * pair, v, 2 * pairs_left, packed);
      }
    }
  }
}

}  // namespace

void rotary(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin, int axis, int64_t first, bool half_split, bool inverse) {
  if (x.numel() == 0) return;
  RotaryRows rows;
  rows.length = x.size(axis);
  rows.width = x.size(-1);
  rows.pairs = cos.size(1);
  rows.first = first;
  rows.inner = 1;
  for (int i = axis + 1; i < x.rank() - 1; ++i) rows.inner *= x.size(i);
  rows.count = x.numel() / (rows.width * rows.length);
  rows.by_length = Divisor(rows.length);
  rows.by_inner = Divisor(rows.inner);
  dispatch_compute(x.dtype(), "rotary", [&]<class T>() {
    constexpr int P = pack_size<T>, N = 2 * P;  // 16 bytes of each half
    using A = acc_of<T>;
    T* out = y.data<T>();
    const T* in = x.data<T>();
    const A *c = cos.data<A>(), *s = sin.data<A>();
    const bool packed = rows.width % P == 0 && rows.pairs % P == 0 && (rows.width - 2 * rows.pairs) % N == 0 && can_pack<P>(out, in) &&
                        can_pack<pack_size<A>>(c, s);
    rows.turns = ceil_div(rows.pairs, P);
    rows.units = rows.turns + ceil_div(rows.width - 2 * rows.pairs, N);
    rows.by_units = Divisor(rows.units);
    const int64_t threads = ceil_div(rows.count, rows_at_once) * rows.length * rows.units;
    launch(rotary_kernel<T, N>, grid_over(threads), block_threads, 0, out, in, c, s, rows, threads, half_split,
           static_cast<A>(inverse ? -1 : 1), packed);
  });
}

}  // namespace weft::cuda
