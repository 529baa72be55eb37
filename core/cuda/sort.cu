// Sorting along an axis. Other axes than the innermost are moved there and back, so that lines are read and written whole.
#include "weft/core/cuda/sort.cuh"

namespace weft::cuda {
namespace {

template <class T, class Entry>
struct Values {
  const T* x;
  int64_t length;
  bool descending;
  __device__ Entry operator()(int64_t line, int64_t i) const {
    return Entry::of(sort_key<typename Entry::Key>(widen(x[line * length + i]), descending), i);
  }
};

// What stands at a rank, and where that comes from.
template <class T, class Entry>
struct Ranked {
  T* values;
  int64_t* indices;
  const T* x;
  int64_t length, kept;
  __device__ void operator()(int64_t line, int64_t rank, const Entry& entry) const {
    values[line * kept + rank] = x[line * length + entry.place()];
    indices[line * kept + rank] = entry.place();
  }
};

template <class F>
void dispatch_sortable(DType dtype, F&& f) {
  if (dtype == DType::int64) return f.template operator()<int64_t>();
  dispatch_compute(dtype, "sort", f);
}

}  // namespace

void sort(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool descending) {
  if (values.numel() == 0) return;
  const AxisView v = view_along(x.shape(), axis);
  const int64_t kept = values.shape()[axis];
  if (v.inner > 1) {
    const std::array<int, 3> order{0, 2, 1};
    Tensor lines = empty({v.outer, v.inner, v.length}, x.options());
    Tensor line_values = empty({v.outer, v.inner, kept}, x.options()), line_indices = empty({v.outer, v.inner, kept}, indices.options());
    permute(lines, x.viewed_as({v.outer, v.length, v.inner}), order);
    sort(line_values, line_indices, lines, 2, descending);
    Tensor out = values.viewed_as({v.outer, kept, v.inner}), where = indices.viewed_as({v.outer, kept, v.inner});
    permute(out, line_values, order);
    permute(where, line_indices, order);
    return;
  }
  dispatch_sortable(x.dtype(), [&]<class T>() {
    using Entry = std::conditional_t<sizeof(T) == 8, Entry64, Entry32>;
    WEFT_CHECK(sizeof(T) == 8 || v.length < int64_t{1} << 32, "sort: lines of at most 2^32 elements, got {}", v.length);
    const T* in = x.data<T>();
    sort_lines<Entry>(v.outer, v.length, kept, Values<T, Entry>{in, v.length, descending},
                      Ranked<T, Entry>{values.data<T>(), indices.data<int64_t>(), in, v.length, kept}, x.device());
  });
}

void topk(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool largest) { sort(values, indices, x, axis, largest); }

}  // namespace weft::cuda
