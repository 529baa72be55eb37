// Gathering, scattering, embedding. Sums go in a fixed order: each output element belongs to one thread.
#include <algorithm>
#include <cstring>

#include "weft/core/axis.h"
#include "weft/core/cpu/parallel.h"
#include "weft/core/cpu/runs.h"
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

// Calls f(o, begin, end) for ranges of columns of each of `outer` blocks of [rows, columns], over the threads: whoever has a column has
// all its rows, so what is added up down a column goes in the order of the rows. Narrower ranges would share cache lines.
template <class F>
void for_columns(int64_t outer, int64_t rows, int64_t columns, F&& f) {
  constexpr int64_t narrowest = 32;
  const int64_t ranges = outer >= num_threads() ? 1 : std::max<int64_t>(1, std::min<int64_t>(num_threads(), columns / narrowest));
  parallel_for(outer * ranges, grain_for(rows * columns / ranges), [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t range = task % ranges;
      f(task / ranges, columns * range / ranges, columns * (range + 1) / ranges);
    }
  });
}

}  // namespace

void gather(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from = view_along(x.shape(), axis), to = view_along(y.shape(), axis);
  const int64_t* at = index.data<int64_t>();
  dispatch_all(x.dtype(), [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    parallel_for(to.outer * to.length, grain_for(to.inner), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* block = in + row / to.length * from.length * from.inner;
        for (int64_t j = 0; j < to.inner; ++j) {
          const int64_t e = row * to.inner + j;
          out[e] = block[at[e] * from.inner + j];
        }
      }
    });
  });
}

void scatter_add(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from = view_along(x.shape(), axis), to = view_along(y.shape(), axis);
  const int64_t* at = index.data<int64_t>();
  dispatch_float(x.dtype(), "scatter_add", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    for_columns(from.outer, from.length, from.inner, [&](int64_t o, int64_t begin, int64_t end) {
      T* block = out + o * to.length * to.inner;
      for (int64_t i = 0; i < from.length; ++i) {
        const int64_t row = (o * from.length + i) * from.inner;
        for (int64_t j = begin; j < end; ++j) block[at[row + j] * to.inner + j] += in[row + j];
      }
    });
  });
}

void index_select(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from = view_along(x.shape(), axis);
  const int64_t count = index.numel(), row_bytes = from.inner * size_of(x.dtype());
  if (y.numel() == 0) return;
  const int64_t* at = index.data<int64_t>();
  auto* out = static_cast<std::byte*>(y.raw());
  const auto* in = static_cast<const std::byte*>(x.raw());
  with_constant_size(row_bytes, [&](auto bytes) {
    parallel_for(from.outer * count, std::max<int64_t>(1, grain_bytes / bytes), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t source = row / count * from.length + at[row % count];
        std::memcpy(out + row * bytes, in + source * bytes, static_cast<size_t>(bytes));
      }
    });
  });
}

void index_add(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from = view_along(x.shape(), axis), to = view_along(y.shape(), axis);
  const int64_t* at = index.data<int64_t>();
  dispatch_float(x.dtype(), "index_add", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    for_columns(from.outer, from.length, from.inner, [&](int64_t o, int64_t begin, int64_t end) {
      for (int64_t i = 0; i < from.length; ++i) {
        T* row = out + (o * to.length + at[i]) * to.inner;
        const T* add = in + (o * from.length + i) * from.inner;
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) row[j] += add[j];
      }
    });
  });
}

void one_hot(Tensor& y, const Tensor& index) {
  fill(y, 0);
  const int64_t classes = y.shape().back();
  const int64_t* at = index.data<int64_t>();
  Tensor one = empty({1}, {.dtype = y.dtype(), .device = Device::cpu()});
  fill(one, 1);
  auto* out = static_cast<std::byte*>(y.raw());
  with_constant_size(size_of(y.dtype()), [&](auto bytes) {
    parallel_for(index.numel(), light_grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) std::memcpy(out + (i * classes + at[i]) * bytes, one.raw(), static_cast<size_t>(bytes));
    });
  });
}

}  // namespace weft::cpu
