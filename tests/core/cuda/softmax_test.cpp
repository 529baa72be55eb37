// Softmax and log-softmax on CUDA: rows of lanes, of warps, of blocks and beyond, columns, masks of every shape, and what is not finite.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

// Exponentials differ in their last place, and so does everything made of them.
constexpr double units = 8;
constexpr double infinity = std::numeric_limits<double>::infinity(), quiet_nan = std::numeric_limits<double>::quiet_NaN();

// Two of three are true; the first `empty_rows` rows of the last axis have none.
Tensor random_mask(const Shape& shape, int64_t empty_rows = 0) {
  Generator generator(5);
  const std::vector<int64_t> drawn = randint(3, shape, Device::cpu(), &generator).to_vector<int64_t>();
  Tensor mask = empty(shape, {.dtype = DType::boolean, .device = Device::cpu()});
  const int64_t hidden = shape.rank() == 0 ? 0 : empty_rows * shape.back();
  for (int64_t i = 0; i < mask.numel(); ++i) mask.data<bool>()[i] = i >= hidden && drawn[static_cast<size_t>(i)] != 0;
  return mask;
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& mask, int axis) {
  Tensor y = empty_like(x), log_y = empty_like(x);
  WEFT_LAUNCH(x, softmax(y, x, mask, axis));
  WEFT_LAUNCH(x, log_softmax(log_y, x, mask, axis));
  return {y, log_y};
}

std::vector<Tensor> backward(const Tensor& dy, const Tensor& y, const Tensor& log_y, int axis) {
  Tensor dx = empty_like(y), dx_of_log = empty_like(y);
  WEFT_LAUNCH(y, softmax_backward(dx, dy, y, axis));
  WEFT_LAUNCH(y, log_softmax_backward(dx_of_log, dy, log_y, axis));
  return {dx, dx_of_log};
}

// The backward reads results that are rounded to the dtype under test, so that both devices read the same ones.
void check_softmax(const Tensor& x, int axis, const Tensor& mask = {}, const std::vector<DType>& dtypes = weft::testing::compute_dtypes) {
  INFO("x ", describe(x), " along axis ", axis, mask.defined() ? ", mask " + describe(mask) : "");
  check_on_cuda(
      {x, mask}, [&](const std::vector<Tensor>& in) { return forward(in[0], in[1], axis); }, dtypes, units);
  const std::vector<Tensor> y = forward(x, mask, axis);
  check_on_cuda(
      {normal(x.shape(), 2), y[0], y[1]}, [&](const std::vector<Tensor>& in) { return backward(in[0], in[1], in[2], axis); }, dtypes,
      units);
}

}  // namespace

TEST_CASE("cuda: softmax of rows") {
  for (int64_t n : {1, 2, 7, 32, 33, 64, 129, 257, 512, 520, 1000, 1032}) check_softmax(normal({5, n}), 1);
  for (int64_t n : {4100, 4099}) check_softmax(normal({2, n}), 1);
  check_softmax(normal({3, 100, 8}), 2);  // several rows to a warp, and blocks that are not full
  check_softmax(normal({77}), 0);
}

TEST_CASE("cuda: softmax of rows that do not fit into registers") {
  for (int64_t n : {8193, 8200}) check_softmax(normal({2, n}), 1, {}, {DType::float32});
  check_softmax(normal({2, 4200}), 1, random_mask({2, 4200}), {DType::float64});
  check_softmax(normal({2, 16400}), 1, random_mask({16400}), {DType::bfloat16});
  // The largest element comes late, or is hidden.
  Tensor x = normal({3, 8200});
  x.data<double>()[8199] = 300;
  x.data<double>()[8200 + 4] = 300;
  Tensor mask = random_mask({3, 8200}, 0);
  mask.data<bool>()[8199] = true;
  mask.data<bool>()[8200 + 4] = false;
  std::fill_n(mask.data<bool>() + 2 * 8200, 8200, false);
  check_softmax(x, 1, mask, {DType::float32, DType::float16});
}

TEST_CASE("cuda: softmax along other axes") {
  for (int axis : {0, 1, 2}) check_softmax(normal({5, 7, 9}), axis);
  check_softmax(normal({2, 40, 33}), 1);
  check_softmax(normal({300, 3}), 0);
  check_softmax(normal({1, 700, 2}), 1);
  check_softmax(normal({300, 2, 3}), 1);
  check_softmax(normal({1, 300}), 0);  // rows of one
  check_softmax(normal({300, 1}), 0, {}, {DType::float32});
}

TEST_CASE("cuda: softmax with masks") {
  const std::vector<DType> two = {DType::float32, DType::bfloat16};
  for (int64_t n : {7, 64, 260}) {
    const Tensor x = normal({2, 3, 5, n});
    check_softmax(x, 3, random_mask({2, 3, 5, n}, 1));
    for (const Shape& shape :
         {Shape{5, n}, Shape{2, 1, 1, n}, Shape{3, 1, n}, Shape{n}, Shape{5, 1}, Shape{2, 1, 5, 1}, Shape{1}, Shape{}}) {
      check_softmax(x, 3, random_mask(shape, shape.rank() > 1 ? 1 : 0), two);
    }
  }
  const Tensor x = normal({2, 3, 5, 13});
  for (const Shape& shape : {Shape{2, 3, 5, 13}, Shape{5, 13}, Shape{5, 1}, Shape{3, 1, 13}, Shape{13}}) {
    for (int axis : {1, 2}) check_softmax(x, axis, random_mask(shape), two);
  }
  const Tensor none = random_mask({4, 6}, 4);
  check_softmax(normal({4, 6}), 0, none);
  check_softmax(normal({4, 6}), 1, none);
}

TEST_CASE("cuda: softmax of infinities and NaN") {
  for (int64_t n : {6, 33, 600}) {
    Tensor x = normal({6, n});
    double* row = x.data<double>();
    row[2] = -infinity;
    std::fill_n(row += n, n, -infinity);
    (row += n)[1] = quiet_nan;
    (row += n)[0] = infinity;
    (row += n)[n - 1] = quiet_nan;
    row[0] = -infinity;
    std::fill_n(row += n, n - 1, -infinity);
    Tensor mask = random_mask({6, n});
    mask.data<bool>()[2 * n + 1] = false;  // a hidden NaN
    mask.data<bool>()[5 * n] = true;
    check_on_cuda({x}, [](const std::vector<Tensor>& in) { return forward(in[0], {}, 1); });
    check_on_cuda({x, mask}, [](const std::vector<Tensor>& in) { return forward(in[0], in[1], 1); });
    Tensor turned = empty({n, 6}, {.dtype = DType::float64, .device = Device::cpu()});
    const std::vector<int> axes = {1, 0};
    cpu::permute(turned, x, axes);
    check_on_cuda({turned}, [](const std::vector<Tensor>& in) { return forward(in[0], {}, 0); });
  }
}

TEST_CASE("cuda: softmax of empty tensors and of views that do not begin at 16 bytes") {
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 0}, Shape{2, 0, 3}}) {
    for (int axis = 0; axis < shape.rank(); ++axis) check_softmax(normal(shape), axis);
  }
  const Tensor x = normal({5, 17, 16}), mask = random_mask({5, 16});
  check_on_cuda({x, mask}, [](const std::vector<Tensor>& in) {
    const Tensor part = in[0].viewed_as({5 * 17 * 16}).rows(1, 1 + 64 * 16).viewed_as({16, 4, 16});
    std::vector<Tensor> y = forward(part, {}, 2);
    for (Tensor& t : forward(part, in[1].viewed_as({80}).rows(3, 3 + 64).viewed_as({4, 16}), 2)) y.push_back(t);
    return y;
  });
}
