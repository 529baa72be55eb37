#include "weft/core/cpu/thin.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/thin.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include "weft/core/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

template <class T>
struct Thin {
  T* y;
  const T *a, *b;
  int64_t n, m, k;
  T alpha;
  bool accumulate;

  // N rows of a times M rows of b: N * M sums stay in registers while the rows go by.
  template <int N, int M>
  HWY_INLINE void tile(int64_t i, int64_t j) const {
    using S = Simd<T>;
    const T *left = a + i * k, *right = b + j * k;
    S sums[N][M];
    const auto step = [&](int64_t at, int64_t count) HWY_ATTR {
      S row[M];
#pragma GCC unroll 8
      for (int c = 0; c < M; ++c) row[c] = S::load_n(right + c * k + at, count);
#pragma GCC unroll 8
      for (int r = 0; r < N; ++r) {
        const S x = S::load_n(left + r * k + at, count);
#pragma GCC unroll 8
        for (int c = 0; c < M; ++c) sums[r][c] = mul_add(x, row[c], sums[r][c]);
      }
    };
    each_vector<T>(k, step);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < M; ++c) {
        T& out = y[(i + r) * m + j + c];
        const T value = alpha * sum(sums[r][c]);
        out = accumulate ? out + value : value;
      }
    }
  }

  // All rows of a times M rows of b, which stay in the first-level cache meanwhile.
  template <int M>
  void rows(int64_t j) const {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) tile<4, M>(i, j);
    if (n - i == 3) return tile<3, M>(i, j);
    if (n - i == 2) return tile<2, M>(i, j);
    if (n - i == 1) return tile<1, M>(i, j);
  }

  void columns(int64_t begin, int64_t end) const {
    constexpr int M = HWY_MAX_BYTES == 64 ? 4 : 2;  // 4 * M sums, and M + 1 vectors more, fit into the registers
    int64_t j = begin;
    for (; j + M <= end; j += M) rows<M>(j);
    for (; j < end; ++j) rows<1>(j);
  }
};

template <class T>
void product(T* y, const T* a, const T* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate) {
  const Thin<T> thin{y, a, b, n, m, k, static_cast<T>(alpha), accumulate};
  constexpr int64_t grain = int64_t{1} << 15;  // elements of b
  parallel_for(m, grain / std::max<int64_t>(1, k) + 1, [&](int64_t begin, int64_t end) HWY_ATTR { thin.columns(begin, end); });
}

void product_float(float* y, const float* a, const float* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate) {
  product(y, a, b, n, m, k, alpha, accumulate);
}
void product_double(double* y, const double* a, const double* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate) {
  product(y, a, b, n, m, k, alpha, accumulate);
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(product_float);
HWY_EXPORT(product_double);

void thin_product(float* y, const float* a, const float* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(product_float)(y, a, b, n, m, k, alpha, accumulate);
}
void thin_product(double* y, const double* a, const double* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(product_double)(y, a, b, n, m, k, alpha, accumulate);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
