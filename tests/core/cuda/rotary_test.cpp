// Rotary positions on CUDA: whole packs and odd widths, parts of the features, both pairings, both directions.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

// Tables of the dtype under test; half types read float32 tables of the same (rounded) values.
void check_rotary(const Shape& shape, int axis, int64_t pairs, int64_t first) {
  CAPTURE(shape);
  CAPTURE(axis);
  CAPTURE(pairs);
  const Shape table{first + shape[axis] + 2, pairs};
  for (bool half_split : {false, true}) {
    for (bool inverse : {false, true}) {
      check_on_cuda({normal(shape), normal(table, 2), normal(table, 3)}, [=](const std::vector<Tensor>& in) {
        const DType dtype = acc_dtype(in[0].dtype());
        const Tensor cos = to(in[1], dtype), sin = to(in[2], dtype);
        Tensor y = empty_like(in[0]);
        WEFT_LAUNCH(y, rotary(y, in[0], cos, sin, axis, first, half_split, inverse));
        return std::vector<Tensor>{y};
      });
    }
  }
}

}  // namespace

TEST_CASE("cuda: rotary") {
  check_rotary({2, 3, 5, 64}, 2, 32, 0);  // [B, H, N, D]
  check_rotary({2, 5, 3, 64}, 1, 32, 7);  // [B, N, H, D]
  check_rotary({7, 16}, 0, 8, 1);
  check_rotary({1, 2}, 0, 1, 0);
  check_rotary({33, 6}, 0, 3, 0);
  check_rotary({9, 5, 64}, 1, 16, 3);  // features that are copied
  check_rotary({3, 5, 40}, 1, 4, 0);
  check_rotary({3, 5, 7}, 0, 2, 0);
  check_rotary({6, 9}, 0, 4, 2);
  check_rotary({0, 3, 8}, 1, 4, 0);
  check_rotary({120, 300, 5}, 1, 2, 0);  // more than a grid has threads
}

TEST_CASE("cuda: rotary of a view that does not begin at 16 bytes") {
  check_on_cuda({normal({5, 3, 1, 8}), normal({4, 4}, 2), normal({4, 4}, 3)}, [](const std::vector<Tensor>& in) {
    const DType dtype = acc_dtype(in[0].dtype());
    const Tensor cos = to(in[1], dtype), sin = to(in[2], dtype);
    const Tensor flat = in[0].viewed_as({120});
    const Tensor x = flat.rows(1, 1 + 96).viewed_as({4, 3, 8});
    Tensor y = empty_like(x);
    WEFT_LAUNCH(y, rotary(y, x, cos, sin, 0, 0, false, false));
    return std::vector<Tensor>{y};
  });
}
