// BINARY rows on CUDA, every dtype and way of broadcasting.
#include "core/cuda/on_cuda.h"
#include "weft/core/functors.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

Tensor sample(const Shape& shape, double low, double high, uint64_t seed) {
  Generator generator(seed);
  return rand(shape, low, high, {.dtype = DType::float64, .device = Device::cpu()}, &generator);
}

struct Shapes {
  Shape a, b;
};
// The same; scalars; repeated rows, columns and both; rows shorter than a pack, as long as one, and not a multiple of it.
const std::vector<Shapes> pairs = {{{1000}, {1000}},
                                   {{7}, {7}},
                                   {{33, 5}, {}},
                                   {{}, {64}},
                                   {{3}, {1}},
                                   {{17, 64}, {64}},
                                   {{9, 33}, {33}},
                                   {{2, 40}, {2, 1}},
                                   {{4, 9}, {4, 1}},
                                   {{31, 1}, {1, 33}},
                                   {{5, 1, 7}, {6, 1}},
                                   {{2, 3, 4}, {3, 1}},
                                   {{2, 1, 3, 9}, {5, 1, 9}},
                                   {{3, 1, 5, 1, 2, 1}, {4, 1, 6, 1, 3}},
                                   {{0, 4}, {1, 4}},
                                   {{3, 1}, {3, 0}}};

}  // namespace

TEST_CASE("cuda: binary rows of the table"){
#define BINARY(name, ...)                                                                                      \
  SUBCASE(#name) {                                                                                             \
    using F = formulas::name##_formula;                                                                        \
    for (const auto& [a, b] : pairs) {                                                                         \
      INFO(a, " and ", b);                                                                                     \
      const Shape shape = broadcast_shapes(#name, a, b);                                                       \
      check_on_cuda({sample(a, F::lowest, F::highest, 3), sample(b, F::lowest, F::highest, 4), normal(shape)}, \
                    [](const std::vector<Tensor>& in) {                                                        \
                      Tensor y = empty_like(in[2]), da = empty_like(in[2]), db = empty_like(in[2]);            \
                      WEFT_LAUNCH(y, name(y, in[0], in[1]));                                                   \
                      WEFT_LAUNCH(y, name##_backward_a(da, in[2], in[0], in[1], y));                           \
                      WEFT_LAUNCH(y, name##_backward_b(db, in[2], in[0], in[1], y));                           \
                      return std::vector<Tensor>{y, da, db};                                                   \
                    });                                                                                        \
    }                                                                                                          \
  }
#include "weft/core/elementwise.def"
#undef BINARY
}

TEST_CASE("cuda: slopes take undefined tensors for what they do not read") {
  check_on_cuda({normal({7, 33}), normal({33})}, [](const std::vector<Tensor>& in) {
    Tensor da = empty_like(in[0]), db = empty_like(in[0]);
    WEFT_LAUNCH(da, mul_backward_a(da, in[0], Tensor(), in[1], Tensor()));
    WEFT_LAUNCH(db, sub_backward_b(db, in[0], Tensor(), Tensor(), Tensor()));
    return std::vector<Tensor>{da, db};
  });
}

TEST_CASE("cuda: binary rows at NaN, infinities, zeros and ties") {
  constexpr double infinity = std::numeric_limits<double>::infinity(), not_a_number = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> x = {not_a_number, infinity, -infinity, 0, -0.0, 1, -1, 2.5, 0.5};
  const int64_t n = static_cast<int64_t>(x.size());
  const Tensor a = from_vector<double>(x, {n, 1}, Device::cpu()), b = from_vector<double>(x, {n}, Device::cpu());
#define BINARY(name, ...)                                                           \
  SUBCASE(#name) {                                                                  \
    check_on_cuda({a, b, normal({n, n})}, [](const std::vector<Tensor>& in) {       \
      Tensor y = empty_like(in[2]), da = empty_like(in[2]), db = empty_like(in[2]); \
      WEFT_LAUNCH(y, name(y, in[0], in[1]));                                        \
      WEFT_LAUNCH(y, name##_backward_a(da, in[2], in[0], in[1], y));                \
      WEFT_LAUNCH(y, name##_backward_b(db, in[2], in[0], in[1], y));                \
      return std::vector<Tensor>{y, da, db};                                        \
    });                                                                             \
  }
#include "weft/core/elementwise.def"
#undef BINARY
}

TEST_CASE("cuda: binary rows of views that do not begin at 16 bytes, and in place") {
  check_on_cuda({normal({33, 3}), normal({9, 5}, 2)}, [](const std::vector<Tensor>& in) {
    const Tensor a = in[0].rows(1, 33).viewed_as({12, 8}), row = in[1].rows(1, 9).viewed_as({5, 8}).rows(1, 2);
    Tensor y = empty_like(a), whole = clone(in[0]), part = whole.rows(1, 33).viewed_as({12, 8});
    WEFT_LAUNCH(y, mul(y, a, row));
    WEFT_LAUNCH(part, sub(part, part, y));
    return std::vector<Tensor>{y, whole};
  });
}
