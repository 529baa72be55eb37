#include "testing.h"

#include <algorithm>

using namespace weft;
using namespace weft::testing;

namespace {

Tensor counting(const Shape& shape) { return to(arange(shape.numel()), DType::float64).viewed_as(shape); }

// Element of x at an index.
double element(const Tensor& x, const std::vector<int64_t>& index) {
  int64_t at = 0;
  for (int axis = 0; axis < x.rank(); ++axis) at = at * x.size(axis) + index[static_cast<size_t>(axis)];
  return to(x, DType::float64).to_vector<double>()[static_cast<size_t>(at)];
}

// Checks y[index] == x[source(index)] for every index of y (NaN from source: expected value `fill`).
template <class Source>
bool matches(const Tensor& y, const Tensor& x, Source source, double fill = 0) {
  const std::vector<double> values = to(y, DType::float64).to_vector<double>();
  std::vector<int64_t> index(static_cast<size_t>(y.rank()), 0);
  for (size_t flat = 0; flat < values.size(); ++flat) {
    auto rest = static_cast<int64_t>(flat);
    for (int axis = y.rank() - 1; axis >= 0; --axis) {
      index[static_cast<size_t>(axis)] = rest % y.size(axis);
      rest /= y.size(axis);
    }
    const std::vector<int64_t> from = source(index);
    const double expected = from.empty() && x.rank() > 0 ? fill : element(x, from);
    if (values[flat] != expected) return false;
  }
  return true;
}

using Index = std::vector<int64_t>;

}  // namespace

TEST_CASE("permute: every order of four axes, every element size") {
  const Tensor x = counting({3, 2, 5, 4});
  std::vector<int> axes = {0, 1, 2, 3};
  do {
    for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::boolean}) {
      const Tensor typed = to(x, dtype);
      const auto source = [&](const Index& i) {
        Index from(4);
        for (size_t a = 0; a < 4; ++a) from[static_cast<size_t>(axes[a])] = i[a];
        return from;
      };
      CHECK(matches(permute(typed, axes), typed, source));
    }
  } while (std::next_permutation(axes.begin(), axes.end()));
  gradcheck([](const std::vector<Tensor>& in) { return permute(in[0], {2, 0, -1, 1}); }, {normal({3, 2, 1, 4})});
}

TEST_CASE("permute: large transposes go through tiles") {
  const Tensor x = counting({3, 70, 37});
  CHECK(matches(transpose(x), x, [](const Index& i) { return Index{i[0], i[2], i[1]}; }));
  CHECK(matches(permute(x, {2, 0, 1}), x, [](const Index& i) { return Index{i[1], i[2], i[0]}; }));
}

TEST_CASE("reshape, flatten, squeeze, unsqueeze share storage and pass gradients") {
  const Tensor x = normal({2, 3, 4});
  CHECK(reshape(x, {4, -1}).shape() == Shape{4, 6});
  CHECK(reshape(x, {4, -1}).raw() == x.raw());
  CHECK(flatten(x, 1).shape() == Shape{2, 12});
  CHECK(flatten(scalar(3)).shape() == Shape{1});
  CHECK(unsqueeze(x, -1).shape() == Shape{2, 3, 4, 1});
  CHECK(squeeze(unsqueeze(x, 1), 1).shape() == x.shape());
  gradcheck([](const std::vector<Tensor>& in) { return flatten(unsqueeze(reshape(in[0], {3, 8}), 1), 0, 1); }, {x});
}

TEST_CASE("slice: every axis, steps, negative ends; rows of axis 0 share storage") {
  const Tensor x = counting({5, 7, 3});
  CHECK(matches(slice(x, 1, 2, 7, 2), x, [](const Index& i) { return Index{i[0], 2 + 2 * i[1], i[2]}; }));
  CHECK(matches(slice(x, 2, -2, 3), x, [](const Index& i) { return Index{i[0], i[1], i[2] + 1}; }));
  CHECK(slice(x, 0, 1, 4).raw() == static_cast<const double*>(x.raw()) + 21);
  CHECK(slice(x, 1, 3, 3).shape() == Shape{5, 0, 3});
  for (int axis = 0; axis < 3; ++axis) {
    gradcheck([axis](const std::vector<Tensor>& in) { return slice(in[0], axis, 1, 3); }, {normal({3, 4, 3})});
    gradcheck([axis](const std::vector<Tensor>& in) { return slice(in[0], axis, 0, 3, 2); }, {normal({3, 4, 3})});
  }
}

TEST_CASE("concat, stack, split") {
  const Tensor a = counting({2, 3, 2}), b = mul_scalar(counting({2, 1, 2}), -1);
  CHECK(matches(concat({a, b}, 1), a, [](const Index& i) { return Index{i[0], i[1] % 3, i[2]}; }) == false);
  CHECK(close(slice(concat({a, b}, 1), 1, 0, 3), a));
  CHECK(close(slice(concat({a, b}, 1), 1, 3, 4), b));
  CHECK(stack({a, a}, -1).shape() == Shape{2, 3, 2, 2});
  for (int axis = 0; axis < 3; ++axis) {
    gradcheck(
        [axis](const std::vector<Tensor>& in) {
          return concat({in[0], in[1], in[0]}, axis);
        },
        {normal({2, 3, 2}, 1), normal({2, 3, 2}, 2)});
    const std::vector<Tensor> pieces = split(normal({5, 5, 5}, 3), {2, 0, 3}, axis);
    CHECK(close(concat(pieces, axis), normal({5, 5, 5}, 3)));
    gradcheck([axis](const std::vector<Tensor>& in) { return std::vector<Tensor>{split(in[0], {1, 2}, axis)[1]}; }, {normal({3, 3, 3}, 4)});
  }
  gradcheck([](const std::vector<Tensor>& in) { return stack({in[0], in[1]}, 1); }, {normal({2, 3}, 1), normal({2, 3}, 2)});
}

TEST_CASE("pad, flip, roll, repeat, broadcast_to") {
  const Tensor x = counting({3, 4});
  CHECK(matches(
      pad(x, 1, 2, 1, 9), x,
      [](const Index& i) {
        return i[1] >= 2 && i[1] < 6 ? Index{i[0], i[1] - 2} : Index{};
      },
      9));
  CHECK(matches(
      pad(x, 0, -1, 2, 9), x,
      [](const Index& i) {
        return i[0] < 2 ? Index{i[0] + 1, i[1]} : Index{};
      },
      9));
  CHECK(matches(flip(x, 0), x, [](const Index& i) { return Index{2 - i[0], i[1]}; }));
  CHECK(matches(flip(x, 1), x, [](const Index& i) { return Index{i[0], 3 - i[1]}; }));
  CHECK(matches(roll(x, 1, 6), x, [](const Index& i) { return Index{i[0], (i[1] + 2) % 4}; }));
  CHECK(matches(roll(x, 0, -1), x, [](const Index& i) { return Index{(i[0] + 1) % 3, i[1]}; }));
  CHECK(matches(repeat(x, {2, 3}), x, [](const Index& i) { return Index{i[0] % 3, i[1] % 4}; }));
  CHECK(matches(broadcast_to(unsqueeze(x, 1), {2, 3, 5, 4}), x, [](const Index& i) { return Index{i[1], i[3]}; }));
  CHECK(repeat(x, {0, 1}).shape() == Shape{0, 4});
  gradcheck([](const std::vector<Tensor>& in) { return pad(in[0], 1, 2, -1, 0.5); }, {normal({3, 4})});
  gradcheck([](const std::vector<Tensor>& in) { return flip(in[0], 1); }, {normal({3, 4})});
  gradcheck([](const std::vector<Tensor>& in) { return roll(in[0], 0, 2); }, {normal({3, 4})});
  gradcheck([](const std::vector<Tensor>& in) { return repeat(in[0], {2, 1, 3}); }, {normal({3, 2, 2})});
  gradcheck([](const std::vector<Tensor>& in) { return broadcast_to(in[0], {2, 3, 4}); }, {normal({3, 1})});
}

TEST_CASE("shape ops on empty tensors and scalars") {
  const Tensor none = normal({0, 3});
  CHECK(permute(none, {1, 0}).shape() == Shape{3, 0});
  CHECK(flip(none, 0).shape() == Shape{0, 3});
  CHECK(roll(none, 0, 1).shape() == Shape{0, 3});
  CHECK(concat({none, normal({2, 3})}, 0).shape() == Shape{2, 3});
  CHECK(permute(scalar(2), {}).item() == 2);
  CHECK(broadcast_to(scalar(2), {2, 2}).to_vector<float>() == std::vector<float>(4, 2.0F));
}

TEST_CASE("shape ops: errors") {
  const Tensor x = normal({2, 3});
  CHECK(has(error_of([&] { reshape(x, {4, -1}); }), "reshape"));
  CHECK(has(error_of([&] { reshape(x, {-1, -1}); }), "only one size may be -1"));
  CHECK(has(error_of([&] { reshape(x, {7}); }), "reshape: [2, 3] has 6 elements, [7] would have 7"));
  CHECK(has(error_of([&] { permute(x, {0}); }), "permute: float64 [2, 3] has 2 axes"));
  CHECK(has(error_of([&] { permute(x, {0, 0}); }), "axis 0 is named twice"));
  CHECK(has(error_of([&] { transpose(x, 0, 2); }), "axis 2 is out of range"));
  CHECK(has(error_of([&] { slice(x, 1, 2, 5); }), "slice: [2, 5) is out of range for axis 1"));
  CHECK(has(error_of([&] { slice(x, 1, 0, 3, 0); }), "the step must be at least 1"));
  CHECK(has(error_of([&] { concat({}, 0); }), "at least one tensor"));
  CHECK(has(error_of([&] { concat({x, normal({2, 4})}, 0); }), "concat: shapes [2, 3] and [2, 4] differ outside axis 0"));
  CHECK(has(error_of([&] { concat({x, to(x, DType::float32)}, 0); }), "dtypes or devices differ"));
  CHECK(has(error_of([&] { stack({x, normal({2, 4})}); }), "stack: shapes [2, 3] and [2, 4] differ"));
  CHECK(has(error_of([&] { split(x, {1, 1}, 1); }), "the pieces add up to 2"));
  CHECK(has(error_of([&] { squeeze(x, 0); }), "has size 2, expected 1"));
  CHECK(has(error_of([&] { flatten(x, 1, 0); }), "lies behind"));
  CHECK(has(error_of([&] { pad(x, 0, -2, -1); }), "leaves nothing"));
  CHECK(has(error_of([&] { repeat(x, {1}); }), "got 1 counts"));
  CHECK(has(error_of([&] { repeat(x, {1, -1}); }), "must not be negative"));
  CHECK(has(error_of([&] { broadcast_to(x, {3, 3}); }), "broadcast_to"));
}
