// Kernels that move elements, against the CPU's, bit by bit: every size of element, aligned and not, whole tiles and parts of them.
#include <array>

#include "core/cuda/on_cuda.h"

using namespace weft;

namespace {

// One dtype for each size of element.
const std::vector<DType> dtypes = {DType::boolean, DType::bfloat16, DType::float32, DType::int64};

// Different values for all neighbours, as the dtype holds them.
Tensor numbered(const Shape& shape, DType dtype) {
  std::vector<double> values;
  for (int64_t i = 0; i < shape.numel(); ++i) {
    values.push_back(static_cast<double>(dtype == DType::boolean ? (i * i / 3 + i / 7) % 2 : dtype == DType::bfloat16 ? i % 251 : i));
  }
  return to(from_vector(values, shape, Device::cpu()), dtype);
}

// What y = empty(shape) holds after `launch` on the CPU and on CUDA. Both begin as something that the kernel must not leave.
void check_moves(const Shape& shape, const Tensor& x, const std::function<void(Tensor&, const Tensor&)>& launch) {
  Tensor expected = numbered(shape, x.dtype());
  Tensor got = to(expected, Device::cuda());
  launch(expected, x);
  launch(got, to(x, Device::cuda()));
  CHECK(weft::testing::distance(got, expected) == 0);
}

// Every dtype; also as a view that begins one row of the first axis later, so that addresses are no multiples of 16.
void check_all(const Shape& x_shape, const Shape& y_shape, const std::function<void(Tensor&, const Tensor&)>& launch) {
  for (DType dtype : dtypes) {
    CAPTURE(to_text(dtype));
    CAPTURE(x_shape);
    check_moves(y_shape, numbered(x_shape, dtype), launch);
    if (x_shape.rank() == 0 || x_shape[0] == 0) continue;
    Shape longer = x_shape;
    ++longer[0];
    const Tensor x = numbered(longer, dtype);
    Tensor expected = numbered(y_shape, dtype), got = to(expected, Device::cuda());
    launch(expected, x.rows(1, longer[0]));
    launch(got, to(x, Device::cuda()).rows(1, longer[0]));
    CHECK(weft::testing::distance(got, expected) == 0);
  }
}

Shape with_size(Shape shape, int axis, int64_t size) {
  shape[axis] = size;
  return shape;
}

const std::vector<Shape> shapes = {{1}, {7}, {33, 3}, {5, 16, 8}, {2, 3, 4, 5}, {3, 1, 65}, {2, 600}};

}  // namespace

TEST_CASE("cuda: permute") {
  const auto check = [](const Shape& shape, const std::vector<int>& axes) {
    CAPTURE(axes.size());
    Shape permuted;
    for (int axis : axes) permuted.push_back(shape[axis]);
    check_all(shape, permuted, [&](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, permute(y, x, axes)); });
  };
  SUBCASE("heads: the innermost axis stays") {
    check({2, 5, 3, 16}, {0, 2, 1, 3});
    check({3, 7, 2, 5}, {0, 2, 1, 3});
  }
  SUBCASE("planes") {
    check({32, 32}, {1, 0});
    check({33, 65}, {1, 0});
    check({64, 128}, {1, 0});
    check({3, 17, 70}, {0, 2, 1});
    check({2, 40, 3, 66}, {2, 0, 3, 1});
    check({17, 2, 3, 16}, {3, 1, 2, 0});
  }
  SUBCASE("a short side") {
    check({1000, 3}, {1, 0});
    check({3, 1000}, {1, 0});
    check({5, 2, 9, 4}, {3, 2, 1, 0});
  }
  SUBCASE("rank 8, and axes of size 1") {
    check({2, 1, 3, 1, 2, 2, 1, 3}, {7, 6, 5, 4, 3, 2, 1, 0});
    check({2, 2, 2, 2, 2, 2, 2, 2}, {1, 0, 3, 2, 5, 4, 7, 6});
    check({1, 1}, {1, 0});
    check({}, {});
  }
  SUBCASE("nothing") { check({0, 3}, {1, 0}); }
}

TEST_CASE("cuda: broadcast_to and repeat") {
  const auto broadcast = [](const Shape& x, const Shape& y) {
    CAPTURE(y);
    check_all(x, y, [](Tensor& out, const Tensor& in) { WEFT_LAUNCH(in, broadcast_to(out, in)); });
  };
  broadcast({}, {100});
  broadcast({1}, {3, 33});
  broadcast({5, 1}, {5, 48});
  broadcast({5, 1}, {5, 33});
  broadcast({4, 1, 3}, {4, 7, 3});
  broadcast({3, 16}, {2, 5, 3, 16});
  broadcast({2, 1, 3, 1}, {2, 4, 3, 16});
  broadcast({1, 3}, {0, 3});

  const auto repeat = [](const Shape& x, const std::vector<int64_t>& counts) {
    Shape y = x;
    for (int axis = 0; axis < x.rank(); ++axis) y[axis] *= counts[static_cast<size_t>(axis)];
    check_all(x, y, [](Tensor& out, const Tensor& in) { WEFT_LAUNCH(in, repeat(out, in)); });
  };
  repeat({5}, {3});
  repeat({2, 3}, {3, 2});
  repeat({3, 1}, {2, 32});
  repeat({2, 1, 16}, {1, 3, 2});
  repeat({1, 2, 1, 2, 1, 2, 1, 2}, {2, 2, 2, 2, 2, 2, 2, 2});
  repeat({2, 3}, {0, 2});
}

TEST_CASE("cuda: slice and its backward") {
  for (const Shape& shape : shapes) {
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const int64_t size = shape[axis];
      for (int64_t begin : {int64_t{0}, size / 2, size - 1}) {
        for (int64_t step : {1, 2, 3, 1000}) {
          CAPTURE(axis);
          CAPTURE(begin);
          CAPTURE(step);
          for (int64_t count : {int64_t{0}, int64_t{1}, (size - begin + step - 1) / step}) {
            const Shape part = with_size(shape, axis, count);
            check_all(shape, part, [=](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, slice(y, x, axis, begin, step)); });
            check_moves(shape, numbered(part, DType::float32),
                        [=](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, slice_backward(y, x, axis, begin, step)); });
          }
        }
      }
    }
  }
  check_all({3, 16}, {3, 64}, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, slice_backward(y, x, 1, 32, 1)); });
  check_all({3, 16}, {3, 64}, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, slice_backward(y, x, 1, 3, 4)); });
}

TEST_CASE("cuda: pad, flip, roll") {
  for (const Shape& shape : shapes) {
    for (int axis = 0; axis < shape.rank(); ++axis) {
      CAPTURE(axis);
      for (auto [before, after] : {std::pair<int64_t, int64_t>{1, 2}, {0, 16}, {16, 0}, {-1, 3}, {4, -1}, {-100, 103}, {200, -199}}) {
        const int64_t size = shape[axis] + before + after;
        if (size < 0) continue;
        CAPTURE(before);
        check_all(shape, with_size(shape, axis, size),
                  [=, from = before](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, pad(y, x, axis, from, 2.5)); });
      }
      check_all(shape, shape, [=](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, flip(y, x, axis)); });
      for (int64_t shift : {0, 1, -1, 4, 1000, -1000})
        check_all(shape, shape, [=](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, roll(y, x, axis, shift)); });
    }
  }
  check_all({2, 0}, {2, 5}, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, pad(y, x, 1, 5, -1)); });
  check_all({2, 0}, {2, 0}, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, roll(y, x, 1, 3)); });
  check_all({2, 0}, {2, 0}, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, flip(y, x, 1)); });
}

TEST_CASE("cuda: more elements than a grid has threads") {
  const auto check = [](const Shape& x_shape, const Shape& y_shape, DType dtype,
                        const std::function<void(Tensor&, const Tensor&)>& launch) {
    check_moves(y_shape, numbered(x_shape, dtype), launch);
  };
  const Shape odd{3, 66667};
  check(odd, odd, DType::boolean, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, flip(y, x, 1)); });
  check({1, 66667}, odd, DType::boolean, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, broadcast_to(y, x)); });
  check(odd, {6, 66667}, DType::boolean, [](Tensor& y, const Tensor& x) {
    const Tensor xs[] = {x, x};
    WEFT_LAUNCH(x, concat(y, xs, 0));
  });
  check({300, 301}, {301, 300}, DType::float32, [](Tensor& y, const Tensor& x) { WEFT_LAUNCH(x, permute(y, x, std::array{1, 0})); });
}

TEST_CASE("cuda: concat") {
  const auto check = [](const Shape& shape, int axis, const std::vector<int64_t>& sizes) {
    for (DType dtype : dtypes) {
      CAPTURE(to_text(dtype));
      CAPTURE(axis);
      std::vector<Tensor> xs;
      int64_t total = 0;
      for (int64_t size : sizes) {
        xs.push_back(numbered(with_size(shape, axis, size), dtype));
        total += size;
      }
      Tensor expected = numbered(with_size(shape, axis, total), dtype), got = to(expected, Device::cuda());
      WEFT_LAUNCH(expected, concat(expected, xs, axis));
      WEFT_LAUNCH(got, concat(got, weft::testing::moved(xs, Device::cuda()), axis));
      CHECK(weft::testing::distance(got, expected) == 0);
    }
  };
  check({3, 5}, 0, {1, 2, 4});
  check({3, 5}, 1, {1, 2, 4});
  check({3, 5, 16}, 1, {7, 1});
  check({3, 5, 7}, 2, {16, 32, 48});
  check({4}, 0, {5});
  check({4, 2}, 0, {0, 3, 0, 0, 2, 0});
  check({4, 2}, 1, {0, 0});
  check({0, 2}, 1, {3, 1});
  std::vector<int64_t> many;  // more than one launch takes
  for (int i = 0; i < 300; ++i) many.push_back(i % 4);
  check({3, 2}, 0, many);
  check({3, 2}, 1, many);
}
