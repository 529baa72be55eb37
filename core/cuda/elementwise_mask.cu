// Bool tensors: the COMPARE rows of elementwise.def, logic, and what masks are for: where, masked_fill, triangular masks. One pass each.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

constexpr int bools_per_pack = 16;

// A bool is read and written as the byte 0 or 1 that it is.
template <class Formula>
struct Compare {
  template <class A>
  __device__ uint8_t operator()(A a, A b) const {
    return Formula::value(a, b) ? 1 : 0;
  }
};

struct And {
  __device__ uint8_t operator()(uint8_t a, uint8_t b) const { return a & b; }
};
struct Or {
  __device__ uint8_t operator()(uint8_t a, uint8_t b) const { return a | b; }
};
struct Not {
  __device__ uint8_t operator()(uint8_t a) const { return a ^ 1; }
};

template <class T>
struct Choose {
  __device__ T operator()(uint8_t mask, T a, T b) const { return mask != 0 ? a : b; }
};

template <class T>
struct FillMasked {
  T value;
  __device__ T operator()(uint8_t mask, T x) const { return mask != 0 ? value : x; }
};

// An operand: on which side of the diagonal an element of [.., rows, columns] is.
struct Triangle {
  Divisor rows, columns;
  int64_t diagonal;
  bool upper;

  template <int N>
  bool packs() const {
    return true;
  }
  __device__ uint8_t load(int64_t i) const {
    uint8_t x[1];
    load_all<1>(i, x);
    return x[0];
  }
  template <int N>
  __device__ void load_all(int64_t i, uint8_t (&x)[N]) const {
    const int64_t line = columns.divide(i);
    int64_t column = i - line * columns.value(), row = line - rows.divide(line) * rows.value();
    for (int j = 0; j < N; ++j) {
      x[j] = (upper ? column >= row + diagonal : column <= row + diagonal) ? 1 : 0;
      if (++column == columns.value()) {
        column = 0;
        if (++row == rows.value()) row = 0;
      }
    }
  }
  using Value = uint8_t;
};

template <class Formula>
void compare(Tensor& y, const Tensor& a, const Tensor& b) {
  const auto run = [&]<class T>() {
    map<pack_size<T>, uint8_t>(y, Compare<Formula>(), Repeated<T>(a, y.shape()), Repeated<T>(b, y.shape()));
  };
  switch (a.dtype()) {
    case DType::int64:
      return run.template operator()<int64_t>();
    case DType::boolean:
      return run.template operator()<uint8_t>();
    default:
      return dispatch_compute(a.dtype(), "compare", run);
  }
}

template <class F>
void combine(Tensor& y, F f, const Tensor& a, const Tensor& b) {
  map<bools_per_pack, uint8_t>(y, f, Repeated<uint8_t>(a, y.shape()), Repeated<uint8_t>(b, y.shape()));
}

}  // namespace

#define COMPARE(name, f) \
  void name(Tensor& y, const Tensor& a, const Tensor& b) { compare<formulas::name##_formula>(y, a, b); }
#include "weft/core/elementwise.def"
#undef COMPARE

void logical_and(Tensor& y, const Tensor& a, const Tensor& b) { combine(y, And(), a, b); }
void logical_or(Tensor& y, const Tensor& a, const Tensor& b) { combine(y, Or(), a, b); }
void logical_not(Tensor& y, const Tensor& x) { map<bools_per_pack, uint8_t>(y, Not(), Dense<uint8_t>(x)); }

void where(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b) {
  dispatch_size(y.dtype(), [&]<class T>() {
    map<pack_size<T>, T>(y, Choose<T>(), Repeated<uint8_t>(mask, y.shape()), Repeated<T>(a, y.shape()), Repeated<T>(b, y.shape()));
  });
}

void masked_fill(Tensor& y, const Tensor& x, const Tensor& mask, double value) {
  dispatch_size(y.dtype(), [&]<class T>() {
    map<pack_size<T>, T>(y, FillMasked<T>{bits_of<T>(value, y.dtype())}, Repeated<uint8_t>(mask, y.shape()), Dense<T>(x));
  });
}

void triangular_mask(Tensor& y, int64_t diagonal, bool upper) {
  if (y.numel() == 0) return;
  map<bools_per_pack, uint8_t>(y, Same(), Triangle{Divisor(y.size(-2)), Divisor(y.size(-1)), diagonal, upper});
}

}  // namespace weft::cuda
