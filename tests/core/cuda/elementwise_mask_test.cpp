// Comparisons, logic, where and triangular masks on CUDA: the CPU's bits.
#include "core/cuda/on_cuda.h"
#include "weft/core/functors.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity(), quiet_nan = std::numeric_limits<double>::quiet_NaN();

// Small whole numbers, so that many pairs are equal, and some that have no order.
Tensor whole(const Shape& shape, uint64_t seed, bool special = true) {
  Generator generator(seed);
  std::vector<double> x;
  for (int64_t i : randint(5, shape, Device::cpu(), &generator).to_vector<int64_t>()) {
    x.push_back(special && x.size() % 7 == 6 ? (i < 2 ? quiet_nan : i < 4 ? infinity : -infinity) : static_cast<double>(i) - 2);
  }
  return from_vector<double>(x, shape, Device::cpu());
}

Tensor coin(const Shape& shape, uint64_t seed) { return keep_mask(shape, 0.5, {seed, 0}, Device::cpu()); }

Tensor result(const Tensor& x, const Shape& shape) { return empty(shape, {.dtype = DType::boolean, .device = x.device()}); }

struct Shapes {
  Shape a, b;
};
const std::vector<Shapes> pairs = {{{1000}, {1000}},   {{7}, {7}},          {{33, 5}, {}},   {{}, {65}},
                                   {{3}, {1}},         {{17, 64}, {64}},    {{9, 33}, {33}}, {{2, 40}, {2, 1}},
                                   {{31, 1}, {1, 33}}, {{5, 1, 7}, {6, 1}}, {{0, 4}, {1, 4}}};

}  // namespace

TEST_CASE("cuda: comparisons") {
  for (const auto& [a, b] : pairs) {
    const Shape shape = broadcast_shapes("compare", a, b);
    INFO(a, " and ", b);
    const auto call = [&](const std::vector<Tensor>& in) {
      std::vector<Tensor> ys;
#define COMPARE(name, f)              \
  ys.push_back(result(in[0], shape)); \
  WEFT_LAUNCH(in[0], name(ys.back(), in[0], in[1]));
#include "weft/core/elementwise.def"
#undef COMPARE
      return ys;
    };
    check_on_cuda({whole(a, 1), whole(b, 2)}, call);
    for (DType dtype : {DType::int64, DType::boolean}) {
      check_on_cuda({to(whole(a, 1, false), dtype), to(whole(b, 2, false), dtype)}, call, {DType::float32});
    }
  }
}

TEST_CASE("cuda: comparisons of int64 see every bit") {
  const std::vector<int64_t> x = {
      int64_t{1} << 60, (int64_t{1} << 60) + 1, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), -1, 0};
  const int64_t n = static_cast<int64_t>(x.size());
  check_on_cuda({from_vector<int64_t>(x, {n, 1}, Device::cpu()), from_vector<int64_t>(x, {n}, Device::cpu())},
                [&](const std::vector<Tensor>& in) {
                  Tensor y = result(in[0], {n, n}), z = result(in[0], {n, n});
                  WEFT_LAUNCH(y, less(y, in[0], in[1]));
                  WEFT_LAUNCH(z, equal(z, in[0], in[1]));
                  return std::vector<Tensor>{y, z};
                },
                {DType::float32});
}

TEST_CASE("cuda: logic") {
  for (const auto& [a, b] : pairs) {
    const Shape shape = broadcast_shapes("logic", a, b);
    INFO(a, " and ", b);
    check_on_cuda({coin(a, 1), coin(b, 2)},
                  [&](const std::vector<Tensor>& in) {
                    Tensor both = result(in[0], shape), either = result(in[0], shape), neither = result(in[0], in[0].shape());
                    WEFT_LAUNCH(both, logical_and(both, in[0], in[1]));
                    WEFT_LAUNCH(both, logical_or(either, in[0], in[1]));
                    WEFT_LAUNCH(both, logical_not(neither, in[0]));
                    return std::vector<Tensor>{both, either, neither};
                  },
                  {DType::float32});
  }
}

TEST_CASE("cuda: where and masked_fill") {
  const auto call = [](const std::vector<Tensor>& in) {
    const Shape shape = broadcast_shapes("where", broadcast_shapes("where", in[0].shape(), in[1].shape()), in[2].shape());
    Tensor y = empty(shape, in[1].options()), z = empty_like(in[1]);
    WEFT_LAUNCH(y, where(y, in[0], in[1], in[2]));
    if (!broadcasts_to(in[0].shape(), in[1].shape())) return std::vector<Tensor>{y};
    WEFT_LAUNCH(y, masked_fill(z, in[1], in[0], -infinity));
    Tensor filled = empty_like(in[1]);
    WEFT_LAUNCH(y, masked_fill(filled, in[1], in[0], 2.7));
    return std::vector<Tensor>{y, z, filled};
  };
  struct Case {
    Shape mask, a, b;
  };
  const std::vector<Case> cases = {{{1000}, {1000}, {1000}},      {{7, 33}, {7, 33}, {}},         {{33}, {9, 33}, {9, 1}},
                                   {{4, 1, 40}, {4, 3, 40}, {1}}, {{2, 1, 5, 9}, {3, 5, 9}, {9}}, {{}, {17}, {17}},
                                   {{5, 1}, {5, 64}, {64}},       {{0, 3}, {0, 3}, {3}},          {{2, 6}, {1, 6}, {2, 1}}};
  for (const auto& [mask, a, b] : cases) {
    INFO(mask, " ? ", a, " : ", b);
    check_on_cuda({coin(mask, 3), whole(a, 1), whole(b, 2)}, call);
    for (DType dtype : {DType::int64, DType::boolean}) {
      check_on_cuda({coin(mask, 3), to(whole(a, 1, false), dtype), to(whole(b, 2, false), dtype)}, call, {DType::float32});
    }
  }
}

TEST_CASE("cuda: triangular_mask") {
  for (const Shape& shape :
       {Shape{1, 1}, Shape{5, 9}, Shape{33, 17}, Shape{3, 7, 5}, Shape{2, 3, 1, 40}, Shape{40, 1}, Shape{0, 3}, Shape{3, 0}}) {
    for (int64_t diagonal : {-50, -2, 0, 1, 7, 50}) {
      for (bool upper : {false, true}) {
        INFO(shape, ", diagonal ", diagonal, upper ? ", upper" : ", lower");
        Tensor expected = empty(shape, {.dtype = DType::boolean, .device = Device::cpu()});
        Tensor y = empty(shape, {.dtype = DType::boolean, .device = Device::cuda()});
        cpu::triangular_mask(expected, diagonal, upper);
        cuda::triangular_mask(y, diagonal, upper);
        CHECK(to_host(y).to_vector<bool>() == expected.to_vector<bool>());
      }
    }
  }
}

TEST_CASE("cuda: masks of views that do not begin at 16 bytes") {
  check_on_cuda({normal({33, 3}), normal({33, 3}, 2), coin({33, 3}, 3)}, [](const std::vector<Tensor>& in) {
    const Tensor a = in[0].rows(1, 33), b = in[1].rows(0, 32), mask = in[2].rows(1, 33);
    Tensor y = empty_like(a), z = zeros({33, 3}, in[2].options()), part = z.rows(1, 33);
    WEFT_LAUNCH(y, where(y, mask, a, b));
    WEFT_LAUNCH(y, less(part, a, b));
    WEFT_LAUNCH(y, logical_and(part, part, mask));
    return std::vector<Tensor>{y, z};
  });
}
