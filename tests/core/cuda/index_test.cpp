// Gathering, scattering and embedding on CUDA: the CPU's results, sums that repeat to the bit, and wrong indices that do no harm.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

// Indices below `rows` in no order; with `same` every second one is a favourite.
Tensor indices(const Shape& shape, int64_t rows, bool favourite = false) {
  std::vector<int64_t> at;
  for (int64_t i = 0; i < shape.numel(); ++i) at.push_back(favourite && i % 2 == 0 ? rows / 2 : (i * i * 31 + i * 7 + i / 3) % rows);
  return from_vector(at, shape, Device::cpu());
}

Shape with_size(Shape shape, int axis, int64_t size) {
  shape[axis] = size;
  return shape;
}

// Inputs: y before, x, index.
weft::testing::KernelCall adding(int axis, bool scatter) {
  return [=](const std::vector<Tensor>& in) {
    Tensor y = clone(in[0]);
    if (scatter) {
      WEFT_LAUNCH(y, scatter_add(y, in[1], in[2], axis));
    } else {
      WEFT_LAUNCH(y, index_add(y, in[1], in[2], axis));
    }
    return std::vector<Tensor>{y};
  };
}

}  // namespace

TEST_CASE("cuda: gather") {
  for (const Shape& shape : {Shape{7}, Shape{33, 5}, Shape{3, 5, 16}, Shape{2, 3, 4, 5}}) {
    for (int axis = 0; axis < shape.rank(); ++axis) {
      for (int64_t size : {1, 3, 40}) {
        check_on_cuda(
            {normal(shape), indices(with_size(shape, axis, size), shape[axis])},
            [axis](const std::vector<Tensor>& in) {
              Tensor y = empty(in[1].shape(), in[0].options());
              WEFT_LAUNCH(y, gather(y, in[0], in[1], axis));
              return std::vector<Tensor>{y};
            },
            weft::testing::compute_dtypes, 0);
      }
    }
  }
}

TEST_CASE("cuda: index_select") {
  for (const Shape& shape : {Shape{7}, Shape{33, 5}, Shape{3, 5, 16}, Shape{2, 3, 4, 5}, Shape{9, 64}}) {
    for (int axis = 0; axis < shape.rank(); ++axis) {
      for (int64_t count : {0, 1, 40}) {
        for (int64_t first : {0, 1}) {  // the whole of x, and a part that begins elsewhere
          if (shape[0] < 2) continue;
          check_on_cuda(
              {normal(shape), indices({count}, axis == 0 ? shape[0] - first : shape[axis])},
              [=](const std::vector<Tensor>& in) {
                const Tensor x = in[0].rows(first, in[0].size(0));
                Tensor y = empty(with_size(x.shape(), axis, count), x.options());
                WEFT_LAUNCH(y, index_select(y, x, in[1], axis));
                return std::vector<Tensor>{y};
              },
              weft::testing::compute_dtypes, 0);
        }
      }
    }
  }
}

TEST_CASE("cuda: index_select moves integers and bools") {
  const Tensor ids = arange(12, {.dtype = DType::int64, .device = Device::cpu()}).viewed_as({4, 3}), at = indices({7}, 4);
  for (DType dtype : {DType::int64, DType::boolean}) {
    const Tensor x = to(ids, dtype);
    Tensor expected = empty({7, 3}, x.options());
    WEFT_LAUNCH(x, index_select(expected, x, at, 0));
    const Tensor on_cuda = to(x, Device::cuda());
    Tensor got = empty({7, 3}, on_cuda.options());
    WEFT_LAUNCH(got, index_select(got, on_cuda, to(at, Device::cuda()), 0));
    CHECK(weft::testing::distance(got, expected) == 0);
  }
}

TEST_CASE("cuda: scatter_add") {
  for (bool favourite : {false, true}) {
    for (int64_t length : {1, 5, 32, 33, 100}) {  // up to 32: without sorting
      check_on_cuda({normal({7}), normal({length}, 2), indices({length}, 7, favourite)}, adding(0, true));
      check_on_cuda({normal({3, 7}), normal({3, length}, 2), indices({3, length}, 7, favourite)}, adding(1, true));
      check_on_cuda({normal({7, 5}), normal({length, 5}, 2), indices({length, 5}, 7, favourite)}, adding(0, true));
      check_on_cuda({normal({2, 9, 3}), normal({2, length, 3}, 2), indices({2, length, 3}, 9, favourite)}, adding(1, true));
    }
  }
  check_on_cuda({normal({4000}), normal({2500}, 2), indices({2500}, 4000)}, adding(0, true));
  for (const Shape& shape : {Shape{700, 30}, Shape{200, 100}}) {  // more than a grid has threads
    check_on_cuda({normal({shape[0], 8}), normal(shape, 2), indices(shape, 8)}, adding(1, true), {DType::float32});
  }
}

TEST_CASE("cuda: index_add") {
  for (bool favourite : {false, true}) {
    CAPTURE(favourite);
    for (int64_t length : {1, 5, 33, 64, 700}) {
      CAPTURE(length);
      for (int64_t inner : {1, 5, 8, 40}) {
        check_on_cuda({normal({7, inner}), normal({length, inner}, 2), indices({length}, 7, favourite)}, adding(0, false));
      }
      check_on_cuda({normal({3, 50, 4}), normal({3, length, 4}, 2), indices({length}, 50, favourite)}, adding(1, false));
      check_on_cuda({normal({3, 50}), normal({3, length}, 2), indices({length}, 50, favourite)}, adding(1, false));
    }
  }
  check_on_cuda({normal({3, 600}), normal({5, 600}, 2), indices({5}, 3)}, adding(0, false));        // more than one group's lanes
  check_on_cuda({normal({600, 3}), normal({2500, 3}, 2), indices({2500}, 600)}, adding(0, false));  // more than a block sorts
  check_on_cuda({normal({1, 8}), normal({300, 8}, 2), zeros({300}, {.dtype = DType::int64, .device = Device::cpu()})}, adding(0, false));
}

TEST_CASE("cuda: sums have the CPU's bits") {
  for (DType dtype : {DType::float32, DType::float64}) {
    const Tensor y = to(normal({17, 9}), dtype), x = to(normal({3000, 9}, 2), dtype), list = indices({3000}, 17, true);
    const auto index_added = adding(0, false), scattered = adding(0, true);
    const auto on_cuda = [](const Tensor& t) { return to(t, Device::cuda()); };
    CHECK(weft::testing::distance(index_added({on_cuda(y), on_cuda(x), on_cuda(list)})[0], index_added({y, x, list})[0]) == 0);
    for (int64_t length : {20, 3000}) {
      const Tensor rows = x.rows(0, length), at = indices({length, 9}, 17, true);
      CHECK(weft::testing::distance(scattered({on_cuda(y), on_cuda(rows), on_cuda(at)})[0], scattered({y, rows, at})[0]) == 0);
    }
  }
}

TEST_CASE("cuda: half types are added up in float32") {
  // 1 + 1 + ... stands still at 256 in bfloat16, at 2048 in float16.
  for (DType dtype : {DType::bfloat16, DType::float16}) {
    for (bool scatter : {false, true}) {
      const Tensor x = ones({4000}, {.dtype = dtype, .device = Device::cuda()});
      const Tensor index = zeros({4000}, {.dtype = DType::int64, .device = Device::cuda()});
      Tensor y = zeros({2}, x.options());
      if (scatter) {
        cuda::scatter_add(y, x, index, 0);
      } else {
        cuda::index_add(y, x, index, 0);
      }
      CHECK(to(to(y, Device::cpu()), DType::float64).to_vector<double>() == std::vector<double>{4000, 0});
    }
  }
}

TEST_CASE("cuda: one_hot") {
  for (DType dtype : {DType::boolean, DType::int64, DType::float32, DType::bfloat16}) {
    for (int64_t classes : {1, 2, 7, 16, 33}) {
      for (const Shape& shape : {Shape{}, Shape{3}, Shape{4, 8}}) {
        Shape hot = shape;
        hot.push_back(classes);
        const Tensor index = indices(shape, classes);
        Tensor expected = empty(hot, {.dtype = dtype, .device = Device::cpu()}),
               got = empty(hot, {.dtype = dtype, .device = Device::cuda()});
        cpu::one_hot(expected, index);
        cuda::one_hot(got, to(index, Device::cuda()));
        CHECK(weft::testing::distance(got, expected) == 0);
      }
    }
  }
}

TEST_CASE("cuda: wrong indices read zeros and add nothing") {
  const auto on_cuda = [](const Tensor& x) { return to(x, Device::cuda()); };
  const Tensor x = on_cuda(to(normal({4, 3}), DType::float32));
  const Tensor wrong = on_cuda(from_vector<int64_t>({-1, 4, 1, int64_t{1} << 40, -(int64_t{1} << 62)}, {5}, Device::cpu()));
  const auto host = [](const Tensor& t) { return to(t, Device::cpu()).to_vector<float>(); };
  const std::vector<float> table = host(x);

  Tensor rows = empty({5, 3}, x.options());
  cuda::index_select(rows, x, wrong, 0);
  std::vector<float> expected(15, 0);
  std::copy_n(table.begin() + 3, 3, expected.begin() + 6);
  CHECK(host(rows) == expected);

  Tensor gathered = empty({5}, x.options());
  cuda::gather(gathered, x.rows(0, 1).viewed_as({3}), wrong, 0);
  CHECK(host(gathered) == std::vector<float>{0, 0, table[1], 0, 0});

  Tensor y = clone(x);
  cuda::index_add(y, rows, wrong, 0);
  for (size_t i = 3; i < 6; ++i) expected[i] = 2 * table[i];
  for (size_t i : {0, 1, 2, 6, 7, 8, 9, 10, 11}) expected[i] = table[i];
  expected.resize(12);
  CHECK(host(y) == expected);

  for (int64_t repeats : {1, 20}) {  // without and with sorting
    Tensor many = empty({5 * repeats}, wrong.options());
    cuda::repeat(many, wrong);
    Tensor sums = zeros({4}, x.options());
    cuda::scatter_add(sums, ones({5 * repeats}, x.options()), many, 0);
    CHECK(host(sums) == std::vector<float>{0, static_cast<float>(repeats), 0, 0});
  }

  Tensor hot = empty({5, 4}, x.options());
  cuda::one_hot(hot, wrong);
  std::vector<float> one(20, 0);
  one[9] = 1;
  CHECK(host(hot) == one);
}
