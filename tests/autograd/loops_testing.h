// What the tests of matmul, shapes, indices, convolutions and einsum share: expected values by plain loops over index tuples.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "testing.h"

namespace weft::testing {

using Index = std::vector<int64_t>;

inline std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }

/// Elements that tell where they came from: 0, 1, 2, ... (bool: an irregular pattern).
inline Tensor numbered(const Shape& shape, DType dtype = DType::float64) {
  if (dtype == DType::boolean) return keep_mask(shape, 0.5, RandomKey{3, 4});
  return to(arange(shape.numel()).viewed_as(shape), dtype);
}

inline int64_t offset_of(const Shape& shape, const Index& index) {
  int64_t offset = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) offset = offset * shape[axis] + index[static_cast<size_t>(axis)];
  return offset;
}
inline Index index_of(const Shape& shape, int64_t offset) {
  Index index(static_cast<size_t>(shape.rank()));
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    index[static_cast<size_t>(axis)] = offset % shape[axis];
    offset /= shape[axis];
  }
  return index;
}

/// Host values with a shape, read by index.
struct Array {
  Shape shape;
  std::vector<double> elements;
  explicit Array(const Tensor& x) : shape(x.shape()), elements(values(x)) {}
  double operator[](const Index& index) const { return elements[static_cast<size_t>(offset_of(shape, index))]; }
};

/// y must have this shape, and at each index the expected value, up to `tolerance` * (1 + |expected|).
inline void check_each(const Tensor& y, const Shape& shape, const std::function<double(const Index&)>& expected, double tolerance = 0) {
  REQUIRE(y.shape() == shape);
  const auto got = values(y);
  int64_t wrong = 0;
  for (int64_t e = 0; e < y.numel(); ++e) {
    const double value = got[static_cast<size_t>(e)], want = expected(index_of(shape, e));
    const bool same =
        value == want || (std::isnan(value) && std::isnan(want)) || std::fabs(value - want) <= tolerance * (1 + std::fabs(want));
    if (same) continue;
    if (wrong++ == 0) MESSAGE("element ", e, " of ", to_string(shape), " is ", value, ", expected ", want);
  }
  CHECK(wrong == 0);
}

inline constexpr DType every_dtype[] = {DType::float32, DType::float64, DType::float16, DType::bfloat16, DType::int64, DType::boolean};

}  // namespace weft::testing
