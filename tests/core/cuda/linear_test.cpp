// The linear layer on cuBLASLt, with its bias and GELU.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

TEST_CASE("cuda: linear adds its bias") {
  for (const auto& [rows, in, out] : {std::array<int64_t, 3>{1, 1, 1}, {7, 5, 3}, {33, 16, 8}, {6, 0, 4}, {0, 3, 4}}) {
    check_on_cuda({normal({rows, in}, 1), normal({out, in}, 2), normal({out}, 3)}, [&](const std::vector<Tensor>& x) {
      Tensor y = empty({x[0].size(0), x[1].size(0)}, x[0].options());
      WEFT_LAUNCH(y, linear(y, x[0], x[1], x[2]));
      return std::vector<Tensor>{y};
    });
  }
}

TEST_CASE("cuda: linear with GELU, whose argument may be wanted") {
  for (const auto& [rows, in, out] : {std::array<int64_t, 3>{1, 1, 1}, {7, 5, 3}, {33, 16, 8}, {9, 3, 24}, {6, 0, 4}, {0, 3, 4}}) {
    check_on_cuda({normal({rows, in}, 1), normal({out, in}, 2), normal({out}, 3)}, [&](const std::vector<Tensor>& x) {
      Tensor alone = empty({x[0].size(0), x[1].size(0)}, x[0].options()), y = empty_like(alone), h = empty_like(alone), none;
      WEFT_LAUNCH(y, linear_gelu_tanh(alone, none, x[0], x[1], x[2]));
      WEFT_LAUNCH(y, linear_gelu_tanh(y, h, x[0], x[1], x[2]));
      return std::vector<Tensor>{alone, y, h};
    });
  }
}
