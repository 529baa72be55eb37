// Gated units on CUDA: rows that are and are not a multiple of a pack, and an element long.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

TEST_CASE("cuda: gated activations") {
  for (Gate gate : {Gate::gelu, Gate::silu, Gate::sigmoid, Gate::relu}) {
    for (const Shape& shape :
         {Shape{64}, Shape{1}, Shape{3, 1}, Shape{7, 33}, Shape{5, 3, 40}, Shape{9, 5}, Shape{0, 4}, Shape{4, 0}, Shape{300, 8}}) {
      INFO("gate ", static_cast<int>(gate), ", y is ", shape);
      std::vector<int64_t> both = shape;
      both.back() *= 2;
      check_on_cuda({normal(Shape(both)), normal(shape, 2)}, [=](const std::vector<Tensor>& in) {
        Tensor y = empty_like(in[1]), dh = empty_like(in[0]);
        WEFT_LAUNCH(y, gated_activation(y, in[0], gate));
        WEFT_LAUNCH(y, gated_activation_backward(dh, in[1], in[0], gate));
        return std::vector<Tensor>{y, dh};
      });
    }
  }
}

TEST_CASE("cuda: gated activations of views that do not begin at 16 bytes") {
  // Rows 1 to 32 of [33, 3], as [6, 16] and halves [6, 8].
  check_on_cuda({normal({33, 3}), normal({33, 3}, 2)}, [](const std::vector<Tensor>& in) {
    const Tensor h = in[0].rows(1, 33).viewed_as({6, 16}), dy = in[1].rows(1, 17).viewed_as({6, 8});
    Tensor y = empty_like(dy), dh = empty_like(h);
    WEFT_LAUNCH(y, gated_activation(y, h, Gate::silu));
    WEFT_LAUNCH(y, gated_activation_backward(dh, dy, h, Gate::silu));
    return std::vector<Tensor>{y, dh};
  });
}
