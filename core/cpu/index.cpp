// Gathering, scattering, embedding, sorting. Sums go in a fixed order: each output element belongs to one thread.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "weft/core/cpu/parallel.h"
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

// x seen from one axis: [outer, size, inner] elements.
struct AxisView {
  int64_t outer = 1, size = 1, inner = 1;
  AxisView(const Shape& shape, int axis) : size(shape[axis]) {
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  }
};

constexpr int64_t grain_elements = int64_t{1} << 14;
int64_t grain_for(int64_t elements_per_task) { return std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, elements_per_task)); }

}  // namespace

void gather(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from(x.shape(), axis), to(y.shape(), axis);
  const int64_t* at = index.data<int64_t>();
  dispatch_all(x.dtype(), [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    parallel_for(to.outer * to.size, grain_for(to.inner), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* block = in + row / to.size * from.size * from.inner;
        for (int64_t j = 0; j < to.inner; ++j) {
          const int64_t e = row * to.inner + j;
          out[e] = block[at[e] * from.inner + j];
        }
      }
    });
  });
}

void scatter_add(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from(x.shape(), axis), to(y.shape(), axis);
  const int64_t* at = index.data<int64_t>();
  dispatch_float(x.dtype(), "scatter_add", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    // One task owns a whole line along the axis, so its additions happen in the order of the index.
    parallel_for(from.outer * from.inner, grain_for(from.size), [&](int64_t begin, int64_t end) {
      for (int64_t line = begin; line < end; ++line) {
        const int64_t o = line / from.inner, j = line % from.inner;
        for (int64_t i = 0; i < from.size; ++i) {
          const int64_t e = (o * from.size + i) * from.inner + j;
          out[(o * to.size + at[e]) * to.inner + j] += in[e];
        }
      }
    });
  });
}

void index_select(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView from(x.shape(), axis);
  const int64_t count = index.numel(), row_bytes = from.inner * size_of(x.dtype());
  if (y.numel() == 0) return;
  const int64_t* at = index.data<int64_t>();
  auto* out = static_cast<std::byte*>(y.raw());
  const auto* in = static_cast<const std::byte*>(x.raw());
  parallel_for(from.outer * count, grain_for(from.inner), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t source = row / count * from.size + at[row % count];
      std::memcpy(out + row * row_bytes, in + source * row_bytes, static_cast<size_t>(row_bytes));
    }
  });
}

void index_add(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  const AxisView to(y.shape(), axis);
  const int64_t count = index.numel();
  const int64_t* at = index.data<int64_t>();
  if (x.numel() == 0) return;
  // Positions sorted by target row, in order within a row: rows are shared out over threads and each adds up its own.
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return at[a] < at[b]; });
  dispatch_float(x.dtype(), "index_add", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    const auto add_rows = [&](int64_t o, int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t i = order[static_cast<size_t>(k)];
        T* row = out + (o * to.size + at[i]) * to.inner;
        const T* add = in + (o * count + i) * to.inner;
#pragma omp simd
        for (int64_t j = 0; j < to.inner; ++j) row[j] += add[j];
      }
    };
    const auto starts_row = [&](int64_t k) {
      return k == 0 || k >= count || at[order[static_cast<size_t>(k)]] != at[order[static_cast<size_t>(k - 1)]];
    };
    for (int64_t o = 0; o < to.outer; ++o) {
      parallel_for(count, grain_for(to.inner), [&](int64_t begin, int64_t end) {
        while (!starts_row(begin)) ++begin;  // a row that straddles two pieces belongs to the piece it starts in
        while (!starts_row(end)) ++end;
        if (begin < end) add_rows(o, begin, end);
      });
    }
  });
}

void one_hot(Tensor& y, const Tensor& index) {
  fill(y, 0);
  const int64_t classes = y.shape().back();
  const int64_t* at = index.data<int64_t>();
  dispatch_all(y.dtype(), [&]<class T>() {
    T* out = y.data<T>();
    for (int64_t i = 0; i < index.numel(); ++i) {
      if constexpr (sizeof(T) == 2) {
        out[i * classes + at[i]] = T(1.0F);
      } else {
        out[i * classes + at[i]] = T(1);
      }
    }
  });
}

void index_range(Tensor& y, const Tensor& index) {
  int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
  const int64_t* at = index.data<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i) {
    low = std::min(low, at[i]);
    high = std::max(high, at[i]);
  }
  y.data<int64_t>()[0] = low;
  y.data<int64_t>()[1] = high;
}

// ---- sorting
// -----------------------------------------------------------------------------------------------------------------------------

namespace {

template <class T>
bool is_not_a_number(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::isnan(value);
  } else {
    return false;
  }
}

// Orders positions of one line by value; ties keep their order, NaN comes last either way.
template <class T>
struct Before {
  const T* line;
  bool descending;
  bool operator()(int64_t a, int64_t b) const {
    const T x = line[a], y = line[b];
    if (is_not_a_number(x) || is_not_a_number(y)) return !is_not_a_number(x) && is_not_a_number(y);
    return descending ? x > y : x < y;
  }
};

template <class T>
void sort_lines(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool descending) {
  const AxisView view(x.shape(), axis), kept(values.shape(), axis);
  const T* in = x.data<T>();
  T* out = values.data<T>();
  int64_t* where = indices.data<int64_t>();
  if (kept.size == 0) return;
  parallel_for(view.outer * view.inner, grain_for(view.size), [&](int64_t begin, int64_t end) {
    std::vector<T> line(static_cast<size_t>(view.size));
    std::vector<int64_t> order(static_cast<size_t>(view.size));
    const Before<T> before{line.data(), descending};
    for (int64_t l = begin; l < end; ++l) {
      const int64_t o = l / view.inner, j = l % view.inner;
      for (int64_t i = 0; i < view.size; ++i) line[static_cast<size_t>(i)] = in[(o * view.size + i) * view.inner + j];
      std::iota(order.begin(), order.end(), int64_t{0});
      if (kept.size == view.size) {
        std::stable_sort(order.begin(), order.end(), before);
      } else {
        const auto by_value_then_place = [&](int64_t a, int64_t b) { return before(a, b) || (!before(b, a) && a < b); };
        std::partial_sort(order.begin(), order.begin() + kept.size, order.end(), by_value_then_place);
      }
      for (int64_t i = 0; i < kept.size; ++i) {
        const int64_t e = (o * kept.size + i) * kept.inner + j;
        out[e] = line[static_cast<size_t>(order[static_cast<size_t>(i)])];
        where[e] = order[static_cast<size_t>(i)];
      }
    }
  });
}

}  // namespace

void sort(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool descending) {
  if (x.dtype() == DType::int64) {
    sort_lines<int64_t>(values, indices, x, axis, descending);
  } else {
    dispatch_float(x.dtype(), "sort", [&]<class T>() { sort_lines<T>(values, indices, x, axis, descending); });
  }
}

void topk(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool largest) { sort(values, indices, x, axis, largest); }

}  // namespace weft::cpu
