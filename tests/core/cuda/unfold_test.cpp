// Windows on CUDA, and their transpose: strides, padding, kernels that reach beyond the image on both sides.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

TEST_CASE("cuda: unfold and its backward") {
  struct Case {
    Shape image;
    int64_t kernel_h, kernel_w, stride, padding_h, padding_w;
  };
  const std::vector<Case> cases = {{{1, 1, 1, 1}, 1, 1, 1, 0, 0},   {{2, 3, 7, 5}, 3, 3, 1, 1, 1},  {{2, 3, 8, 9}, 3, 2, 2, 0, 0},
                                   {{1, 2, 6, 6}, 5, 5, 1, 2, 2},   {{2, 1, 5, 16}, 1, 4, 4, 0, 0}, {{1, 2, 9, 4}, 3, 3, 3, 1, 2},
                                   {{1, 1, 3, 3}, 7, 7, 1, 3, 3},   {{3, 2, 1, 33}, 1, 3, 1, 0, 1}, {{1, 2, 4, 4}, 2, 2, 3, 0, 1},
                                   {{2, 2, 10, 10}, 2, 3, 5, 1, 0}, {{0, 2, 4, 4}, 3, 3, 1, 1, 1}};
  for (const Case& c : cases) {
    CAPTURE(c.image);
    const int64_t out_h = (c.image[2] + 2 * c.padding_h - c.kernel_h) / c.stride + 1;
    const int64_t out_w = (c.image[3] + 2 * c.padding_w - c.kernel_w) / c.stride + 1;
    const Shape windows{c.image[0], c.image[1] * c.kernel_h * c.kernel_w, out_h * out_w};
    check_on_cuda({normal(c.image), normal(windows, 2)}, [&](const std::vector<Tensor>& in) {
      Tensor y = empty(windows, in[0].options()), dx = empty(c.image, in[0].options());
      WEFT_LAUNCH(y, unfold(y, in[0], c.kernel_h, c.kernel_w, c.stride, c.padding_h, c.padding_w));
      WEFT_LAUNCH(y, unfold_backward(dx, in[1], c.kernel_h, c.kernel_w, c.stride, c.padding_h, c.padding_w));
      return std::vector<Tensor>{y, dx};
    });
  }
}
