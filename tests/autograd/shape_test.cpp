// Ops that move elements, against index arithmetic: every dtype, any axis, empty and scalar tensors; their gradients; their errors.
#include <numeric>

#include "loops_testing.h"

namespace weft {
namespace {

using namespace testing;

const Shape shapes[] = {{1}, {7}, {3, 5}, {2, 3, 4}, {33, 1, 7}, {2, 1, 3, 5}, {0}, {3, 0, 2}};

// x[index with axis replaced by at].
double moved(const Array& x, Index index, int axis, int64_t at) {
  index[static_cast<size_t>(axis)] = at;
  return x[index];
}

Shape with_size(Shape shape, int axis, int64_t size) {
  shape[axis] = size;
  return shape;
}

TEST_CASE("reshape, flatten, unsqueeze and squeeze share storage") {
  const Tensor x = numbered({2, 3, 4});
  CHECK(reshape(x, {4, 6}).shape() == Shape{4, 6});
  CHECK(reshape(x, {-1, 2}).shape() == Shape{12, 2});
  CHECK(reshape(x, {2, -1, 2, 2}).shape() == Shape{2, 3, 2, 2});
  CHECK(reshape(flatten(x), x.shape()).shape() == x.shape());
  CHECK(flatten(x).shape() == Shape{24});
  CHECK(flatten(x, 1).shape() == Shape{2, 12});
  CHECK(flatten(x, 0, -2).shape() == Shape{6, 4});
  CHECK(flatten(scalar(3)).shape() == Shape{1});
  CHECK(unsqueeze(x, 0).shape() == Shape{1, 2, 3, 4});
  CHECK(unsqueeze(x, -1).shape() == Shape{2, 3, 4, 1});
  CHECK(unsqueeze(scalar(3), 0).shape() == Shape{1});
  CHECK(squeeze(numbered({2, 1, 4}), -2).shape() == Shape{2, 4});
  CHECK(reshape(zeros({0, 3}), {3, -1}).shape() == Shape{3, 0});
  CHECK(reshape(scalar(1), {}).rank() == 0);
  for (const Tensor& y :
       {reshape(x, {4, 6}), flatten(x), unsqueeze(x, 1), slice(x, 0, 0, 1), permute(x, {0, 1, 2}), transpose(unsqueeze(x, 1), 0, 1)}) {
    if (y.size(0) != 1 || y.rank() != 4) CHECK(y.storage() == x.storage());
  }
  CHECK(transpose(numbered({1, 4}), 0, 1).storage() != nullptr);
}

TEST_CASE("permute puts axis axes[i] of x at i") {
  struct Case {
    Shape shape;
    std::vector<int> axes;
  };
  const Case cases[] = {{{}, {}},
                        {{7}, {0}},
                        {{3, 5}, {1, 0}},
                        {{33, 65}, {1, 0}},
                        {{1, 5}, {1, 0}},
                        {{2, 3, 4}, {0, 2, 1}},
                        {{2, 3, 4}, {1, 0, 2}},
                        {{2, 3, 4}, {2, 1, 0}},
                        {{2, 3, 4}, {1, 2, 0}},
                        {{2, 3, 4}, {2, 0, 1}},
                        {{2, 3, 4}, {-1, -3, -2}},
                        {{17, 19, 23}, {2, 1, 0}},
                        {{17, 1, 23}, {2, 1, 0}},
                        {{2, 33, 3, 17}, {0, 2, 1, 3}},
                        {{2, 33, 3, 17}, {0, 2, 3, 1}},
                        {{2, 33, 3, 17}, {3, 1, 0, 2}},
                        {{2, 3, 2, 3, 2, 3, 2, 3}, {7, 0, 5, 2, 3, 4, 1, 6}},
                        {{40, 50, 60}, {2, 0, 1}},
                        {{40, 50, 60}, {1, 0, 2}},
                        {{3, 0, 2}, {2, 1, 0}}};
  for (const Case& c : cases) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(c.shape, dtype);
      const Array from(x);
      Shape shape;
      for (int axis : c.axes) shape.push_back(x.size(axis));
      CAPTURE(to_string(c.shape));
      const Tensor y = permute(x, c.axes);
      CHECK(y.dtype() == dtype);
      check_each(y, shape, [&](const Index& index) {
        Index source(index.size());
        for (size_t i = 0; i < index.size(); ++i) source[static_cast<size_t>(normalize_axis("test", c.axes[i], c.shape.rank()))] = index[i];
        return from[source];
      });
    }
  }
}

TEST_CASE("transpose exchanges two axes") {
  const Tensor x = numbered({2, 3, 4});
  CHECK(transpose(x).shape() == Shape{2, 4, 3});
  CHECK(values(transpose(x)) == values(permute(x, {0, 2, 1})));
  CHECK(values(transpose(x, 0, -1)) == values(permute(x, {2, 1, 0})));
  CHECK(values(transpose(x, 1, 1)) == values(x));
}

TEST_CASE("slice takes any axis, range and step") {
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        const int64_t size = shape[axis];
        for (int64_t begin = 0; begin <= size; begin += std::max<int64_t>(1, size / 3)) {
          for (int64_t end = begin; end <= size; end += std::max<int64_t>(1, size / 3)) {
            for (int64_t step : {1, 2, 5}) {
              check_each(slice(x, axis, begin, end, step), with_size(shape, axis, (end - begin + step - 1) / step),
                         [&](const Index& index) { return moved(from, index, axis, begin + step * index[static_cast<size_t>(axis)]); });
            }
          }
        }
      }
    }
  }
  const Tensor x = arange(10);
  CHECK(slice(x, 0, -3, 10).to_vector<int64_t>() == std::vector<int64_t>{7, 8, 9});
  CHECK(slice(x, -1, 2, -2, 3).to_vector<int64_t>() == std::vector<int64_t>{2, 5});
}

TEST_CASE("select takes one index of any axis away") {
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        Shape rest = shape;
        rest.erase(axis);
        for (int64_t at = -shape[axis]; at < shape[axis]; ++at) {
          check_each(select(x, axis, at), rest, [&](const Index& index) {
            Index full = index;
            full.insert(full.begin() + axis, (at + shape[axis]) % shape[axis]);
            return from[full];
          });
        }
      }
    }
  }
  const Tensor x = random({3, 4, 2});
  CHECK(select(x, 0, 1).storage() == x.storage());
  for (int axis : {0, 1, 2}) gradcheck([axis](const std::vector<Tensor>& in) { return select(in[0], axis, -1); }, {x});
  CHECK_THROWS_WITH_AS(select(x, 1, 4), "select: index 4 is out of range for axis 1 of float64 [3, 4, 2]", Error);
  CHECK_THROWS_WITH_AS(select(x, 1, -5), "select: index -5 is out of range for axis 1 of float64 [3, 4, 2]", Error);
}

TEST_CASE("repeat_interleave repeats each element, repeat whole tensors") {
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (int64_t count : {0, 1, 3}) {
          check_each(repeat_interleave(x, count, axis), with_size(shape, axis, count * shape[axis]),
                     [&](const Index& index) { return moved(from, index, axis, index[static_cast<size_t>(axis)] / count); });
        }
      }
    }
  }
  for (int axis : {0, 1, -1}) {
    for (int64_t count : {0, 1, 3}) {
      gradcheck([=](const std::vector<Tensor>& in) { return repeat_interleave(in[0], count, axis); }, {random({3, 4, 2})});
    }
  }
  CHECK_THROWS_WITH_AS(repeat_interleave(arange(3), -1, 0), "repeat_interleave: the count must not be negative, got -1", Error);
}

TEST_CASE("concat, stack and split undo each other") {
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      for (int axis = 0; axis < x.rank(); ++axis) {
        const int64_t size = shape[axis], first = size / 3, second = size / 2 - size / 3;
        const std::vector<int64_t> sizes{first, 0, second, size - first - second};
        const auto pieces = split(x, sizes, axis - x.rank());
        REQUIRE(pieces.size() == sizes.size());
        const Array from(x);
        int64_t begin = 0;
        for (size_t i = 0; i < pieces.size(); ++i) {
          check_each(pieces[i], with_size(shape, axis, sizes[i]),
                     [&](const Index& index) { return moved(from, index, axis, begin + index[static_cast<size_t>(axis)]); });
          begin += sizes[i];
        }
        const Tensor y = concat(pieces, axis);
        CHECK(y.shape() == shape);
        CHECK(y.dtype() == dtype);
        CHECK(values(y) == values(x));
      }
    }
  }
  const Tensor a = numbered({2, 3}), b = add_scalar(a, 10);
  CHECK(stack({a, b}).shape() == Shape{2, 2, 3});
  CHECK(values(stack({a, b}, 0)) == values(concat({a, b}, 0)));
  CHECK(values(stack({a, b}, -1)) == std::vector<double>{0, 10, 1, 11, 2, 12, 3, 13, 4, 14, 5, 15});
  CHECK(values(stack({scalar(1), scalar(2)})) == std::vector<double>{1, 2});
}

TEST_CASE("pad adds a value around an axis, or crops") {
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (int64_t before : {0, 2, -1, -5}) {
          for (int64_t after : {0, 3, -1, 6}) {
            const int64_t size = shape[axis] + before + after;
            if (size < 0) continue;
            check_each(pad(x, axis, before, after, 1), with_size(shape, axis, size), [&](const Index& index) {
              const int64_t at = index[static_cast<size_t>(axis)] - before;
              return at >= 0 && at < shape[axis] ? moved(from, index, axis, at) : 1.0;
            });
          }
        }
      }
    }
  }
}

TEST_CASE("flip and roll") {
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        const int64_t size = shape[axis];
        check_each(flip(x, axis), shape,
                   [&](const Index& index) { return moved(from, index, axis, size - 1 - index[static_cast<size_t>(axis)]); });
        for (int64_t shift : {0, 1, -1, 3, -100, 1000}) {
          check_each(roll(x, axis, shift), shape, [&](const Index& index) {
            return moved(from, index, axis, (((index[static_cast<size_t>(axis)] - shift) % size) + size) % size);
          });
        }
      }
    }
  }
}

TEST_CASE("repeat tiles every axis") {
  struct Case {
    Shape shape;
    std::vector<int64_t> counts;
  };
  const Case cases[] = {{{}, {}},         {{3}, {4}},       {{3, 1}, {1, 5}},       {{2, 3}, {2, 2}},
                        {{2, 3}, {3, 1}}, {{1, 3}, {4, 1}}, {{2, 1, 3}, {1, 4, 2}}, {{2, 3, 2, 3, 1, 2, 1, 2}, {1, 2, 1, 2, 3, 1, 2, 1}},
                        {{2, 3}, {0, 2}}, {{0, 3}, {2, 2}}, {{65, 70}, {2, 3}}};
  for (const Case& c : cases) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(c.shape, dtype);
      const Array from(x);
      Shape shape;
      for (int axis = 0; axis < x.rank(); ++axis) shape.push_back(c.shape[axis] * c.counts[static_cast<size_t>(axis)]);
      check_each(repeat(x, c.counts), shape, [&](Index index) {
        for (size_t i = 0; i < index.size(); ++i) index[i] %= c.shape[static_cast<int>(i)];
        return from[index];
      });
    }
  }
}

TEST_CASE("broadcast_to stretches axes of size 1 and adds leading ones") {
  struct Case {
    Shape from, to;
  };
  const Case cases[] = {{{}, {}},
                        {{}, {3, 4}},
                        {{4}, {3, 4}},
                        {{1}, {7}},
                        {{3, 1}, {3, 70}},
                        {{1, 4}, {3, 4}},
                        {{3, 1, 5}, {2, 3, 4, 5}},
                        {{1, 3, 1}, {4, 3, 5}},
                        {{1, 1}, {0, 3}},
                        {{2, 1, 0}, {2, 5, 0}},
                        {{300, 1}, {2, 300, 130}}};
  for (const Case& c : cases) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(c.from, dtype);
      const Array from(x);
      check_each(broadcast_to(x, c.to), c.to, [&](const Index& index) {
        Index source(index.end() - c.from.rank(), index.end());
        for (size_t i = 0; i < source.size(); ++i) source[i] = c.from[static_cast<int>(i)] == 1 ? 0 : source[i];
        return from[source];
      });
    }
  }
}

TEST_CASE("large tensors: the same elements on one thread and on several") {
  manual_seed(1);
  const Tensor x = random({130, 70, 90}, DType::float32);
  const auto all = [&] {
    return std::vector<Tensor>{permute(x, {2, 1, 0}),
                               permute(x, {1, 0, 2}),
                               permute(x, {0, 2, 1}),
                               slice(x, 2, 1, 90, 2),
                               slice(x, 1, 3, 60),
                               concat({x, x}, 0),
                               concat({x, x}, 2),
                               pad(x, 1, 5, -3, 2),
                               flip(x, 2),
                               flip(x, 0),
                               roll(x, 0, 33),
                               roll(x, 2, -7),
                               repeat(x, {2, 1, 2}),
                               broadcast_to(x, {2, 130, 70, 90}),
                               broadcast_to(slice(x, 2, 0, 1), {130, 70, 90})};
  };
  std::vector<Tensor> one, three;
  {
    ThreadCount scope(1);
    one = all();
  }
  {
    ThreadCount scope(3);
    three = all();
  }
  for (size_t i = 0; i < one.size(); ++i) {
    CAPTURE(i);
    CHECK(one[i].to_vector<float>() == three[i].to_vector<float>());
  }
}

TEST_CASE("gradients of ops that move elements") {
  manual_seed(2);
  using Inputs = std::vector<Tensor>;
  for (const Shape& shape : {Shape({7}), Shape({3, 5}), Shape({2, 3, 4}), Shape({3, 0, 2})}) {
    const Tensor x = random(shape);
    const int rank = x.rank();
    gradcheck([](const Inputs& in) { return flatten(in[0]); }, {x});
    gradcheck([](const Inputs& in) { return unsqueeze(in[0], 0); }, {x});
    gradcheck([](const Inputs& in) { return squeeze(unsqueeze(in[0], 0), 0); }, {x});
    std::vector<int> turned(static_cast<size_t>(rank));
    std::iota(turned.begin(), turned.end(), 1);
    turned.back() = 0;
    gradcheck([&](const Inputs& in) { return permute(in[0], turned); }, {x});
    std::vector<int64_t> counts(static_cast<size_t>(rank), 2);
    counts[0] = 3;
    gradcheck([&](const Inputs& in) { return repeat(in[0], counts); }, {x});
    Shape wide = shape;
    wide.insert(0, 2);
    gradcheck([&](const Inputs& in) { return broadcast_to(in[0], wide); }, {x});
    for (int axis = 0; axis < rank; ++axis) {
      const int64_t size = shape[axis];
      gradcheck([&](const Inputs& in) { return slice(in[0], axis, size / 3, size); }, {x});
      gradcheck([&](const Inputs& in) { return slice(in[0], axis, 0, size, 2); }, {x});
      gradcheck([&](const Inputs& in) { return pad(in[0], axis, 2, 1, 5); }, {x});
      if (size > 1) gradcheck([&](const Inputs& in) { return pad(in[0], axis, -1, 3); }, {x});
      gradcheck([&](const Inputs& in) { return flip(in[0], axis); }, {x});
      gradcheck([&](const Inputs& in) { return roll(in[0], axis, 2); }, {x});
      const Tensor other = random(with_size(shape, axis, 2));
      gradcheck([&](const Inputs& in) { return concat({in[0], in[1], in[0]}, axis); }, {x, other});
      gradcheck([&](const Inputs& in) { return concat({in[0], other}, axis); }, {x});
      gradcheck([&](const Inputs& in) { return stack({in[0], in[1]}, axis); }, {x, random(shape)});
      gradcheck([&](const Inputs& in) { return split(in[0], {size / 2, size - size / 2}, axis); }, {x});
      gradcheck([&](const Inputs& in) { return split(in[0], {size / 2, size - size / 2}, axis)[1]; }, {x});  // a piece that nobody used
    }
  }
  gradcheck([](const Inputs& in) { return broadcast_to(in[0], {3, 4}); }, {random({})});
  gradcheck([](const Inputs& in) { return broadcast_to(in[0], {2, 3, 4, 5}); }, {random({3, 1, 5})});
  gradcheck([](const Inputs& in) { return reshape(in[0], {4, -1}); }, {random({2, 6})});
}

TEST_CASE("rows that share storage keep their gradients apart") {
  manual_seed(3);
  Tensor x = parameter(random({4, 3}));
  const Tensor top = slice(x, 0, 0, 3), bottom = slice(x, 0, 1, 4);
  CHECK(top.storage() == x.storage());
  const Tensor dtop = random({3, 3}), dbottom = random({3, 3});
  backward(std::vector<Tensor>{top, bottom}, std::vector<Tensor>{dtop, dbottom});
  const Array a(dtop), b(dbottom);
  check_each(
      grad(x), {4, 3},
      [&](const Index& i) {
        return (i[0] < 3 ? a[i] : 0.0) + (i[0] > 0 ? b[{i[0] - 1, i[1]}] : 0.0);
      },
      1e-15);
  // The pieces of a concatenation along axis 0 get rows of one gradient: adding to one of them must not reach the others.
  Tensor p = parameter(random({2, 3})), q = parameter(random({2, 3}));
  const Tensor dy = random({6, 3});
  backward(concat({p, q, p}, 0), dy);
  const Array c(dy);
  check_each(
      grad(p), {2, 3},
      [&](const Index& i) {
        return c[i] + c[{i[0] + 4, i[1]}];
      },
      1e-15);
  check_each(grad(q), {2, 3}, [&](const Index& i) { return c[{i[0] + 2, i[1]}]; });
}

TEST_CASE("errors of ops that move elements") {
  const Tensor x = zeros({2, 3});
  CHECK_THROWS_WITH_AS(reshape(x, {-1, -1}), "reshape: only one size may be -1, got -1 for axes 0 and 1", Error);
  CHECK_THROWS_WITH_AS(reshape(x, {4, -1}), "reshape: float32 [2, 3] has 6 elements, which the known sizes (product 4) do not divide",
                       Error);
  CHECK_THROWS_WITH_AS(reshape(x, {4}), "reshape: [2, 3] has 6 elements, [4] would have 4", Error);
  CHECK_THROWS_WITH_AS(reshape(x, {-2, -3}), "shape: sizes must not be negative, got -2", Error);
  CHECK_THROWS_WITH_AS(flatten(x, 1, 0), "flatten: first axis 1 lies behind last axis 0", Error);
  CHECK_THROWS_WITH_AS(unsqueeze(x, 3), "unsqueeze: axis 3 is out of range for a tensor of 3 dimensions", Error);
  CHECK_THROWS_WITH_AS(squeeze(x, 1), "squeeze: axis 1 of float32 [2, 3] has size 3, expected 1", Error);
  CHECK_THROWS_WITH_AS(permute(x, {0}), "permute: float32 [2, 3] has 2 axes, got an order of 1", Error);
  CHECK_THROWS_WITH_AS(permute(x, {0, -2}), "permute: axis 0 is named twice", Error);
  CHECK_THROWS_WITH_AS(transpose(x, 0, 2), "transpose: axis 2 is out of range for a tensor of shape [2, 3]", Error);
  CHECK_THROWS_WITH_AS(slice(x, 1, 0, 3, 0), "slice: the step must be at least 1, got 0; flip reverses an axis", Error);
  CHECK_THROWS_WITH_AS(slice(x, 1, 2, 4), "slice: [2, 4) is out of range for axis 1 of float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(reshape(x, std::vector<int64_t>(10, 1)), "reshape: at most 8 dimensions are supported, got 10", Error);
  CHECK_THROWS_WITH_AS(slice(x, 0, -10, 2), "slice: [-10, 2) is out of range for axis 0 of float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(concat({}, 0), "concat: expected at least one tensor", Error);
  CHECK_THROWS_WITH_AS(concat({x, zeros({2, 3}, {.dtype = DType::float64})}, 0),
                       "concat: dtypes or devices differ: float32 [2, 3] and float64 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(concat({x, zeros({4, 2})}, 0), "concat: shapes [2, 3] and [4, 2] differ outside axis 0", Error);
  CHECK_THROWS_WITH_AS(stack({}), "stack: expected at least one tensor", Error);
  CHECK_THROWS_WITH_AS(stack({x, zeros({2, 2})}), "stack: shapes [2, 3] and [2, 2] differ", Error);
  CHECK_THROWS_WITH_AS(split(x, {1, 1}, 1), "split: the pieces add up to 2, axis 1 of float32 [2, 3] has 3", Error);
  CHECK_THROWS_WITH_AS(split(x, {4, -1}, 1), "split: sizes must not be negative, got -1", Error);
  CHECK_THROWS_WITH_AS(pad(x, 1, -2, -2), "pad: cropping 2 and 2 leaves nothing of axis 1 of float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(flip(x, 2), "flip: axis 2 is out of range for a tensor of shape [2, 3]", Error);
  CHECK_THROWS_WITH_AS(roll(scalar(1), 0, 1), "roll: axis 0 is out of range for a tensor of shape []", Error);
  CHECK_THROWS_WITH_AS(concat({x, Tensor()}, 0), "concat: tensor 1 of 2 is undefined", Error);
  CHECK_THROWS_WITH_AS(repeat(x, {2}), "repeat: float32 [2, 3] has 2 axes, got 1 counts", Error);
  CHECK_THROWS_WITH_AS(repeat(x, {2, -1}), "repeat: counts must not be negative, got -1", Error);
  CHECK_THROWS_WITH_AS(broadcast_to(x, {3}), "broadcast_to: float32 [2, 3] does not stretch to [3]", Error);
  CHECK_THROWS_WITH_AS(broadcast_to(x, {4, 3}), "broadcast_to: float32 [2, 3] does not stretch to [4, 3]", Error);
}

}  // namespace
}  // namespace weft
