// UNARY and UNARY_P rows on CUDA, every dtype, at sizes with and without a tail.
#include "core/cuda/on_cuda.h"
#include "weft/core/functors.h"

using namespace weft;
using weft::testing::check_on_cuda;

namespace {

Tensor sample(int64_t n, double low, double high) {
  Generator generator(7);
  return rand({n}, low, high, {.dtype = DType::float64, .device = Device::cpu()}, &generator);
}

}  // namespace

TEST_CASE("cuda: unary rows of the table"){
#define UNARY(name, ...)                                                                                                          \
  SUBCASE(#name) {                                                                                                                \
    for (int64_t n : {1, 7, 64, 1000}) {                                                                                          \
      check_on_cuda({sample(n, formulas::name##_formula::lowest, formulas::name##_formula::highest), weft::testing::normal({n})}, \
                    [](const std::vector<Tensor>& in) {                                                                           \
                      Tensor y = empty_like(in[0]), dx = empty_like(in[0]);                                                       \
                      WEFT_LAUNCH(y, name(y, in[0]));                                                                             \
                      WEFT_LAUNCH(y, name##_backward(dx, in[1], in[0], y));                                                       \
                      return std::vector<Tensor>{y, dx};                                                                          \
                    });                                                                                                           \
    }                                                                                                                             \
  }
#include "weft/core/elementwise.def"
#undef UNARY
}

TEST_CASE("cuda: unary rows with a parameter"){
#define UNARY_P(name, ...)                                                                                                  \
  SUBCASE(#name) {                                                                                                          \
    using F = formulas::name##_formula;                                                                                     \
    check_on_cuda({sample(1000, F::lowest, F::highest), weft::testing::normal({1000})}, [](const std::vector<Tensor>& in) { \
      Tensor y = empty_like(in[0]), dx = empty_like(in[0]);                                                                 \
      WEFT_LAUNCH(y, name(y, in[0], F::parameter));                                                                         \
      WEFT_LAUNCH(y, name##_backward(dx, in[1], in[0], y, F::parameter));                                                   \
      return std::vector<Tensor>{y, dx};                                                                                    \
    });                                                                                                                     \
  }
#include "weft/core/elementwise.def"
#undef UNARY_P
}

TEST_CASE("cuda: views that do not begin at 16 bytes") {
  const Tensor x = weft::testing::normal({33, 3});
  check_on_cuda({x}, [](const std::vector<Tensor>& in) {
    const Tensor part = in[0].rows(1, 33);
    Tensor y = empty_like(part);
    WEFT_LAUNCH(y, exp(y, part));
    return std::vector<Tensor>{y};
  });
}
