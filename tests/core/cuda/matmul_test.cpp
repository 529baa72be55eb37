// Products on cuBLAS: transposes, broadcast batches, accumulation.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

void check_product(const Shape& a, const Shape& b, const Shape& y, bool transpose_a, bool transpose_b, double alpha = 1,
                   bool accumulate = false) {
  INFO(to_string(a), " x ", to_string(b), transpose_a ? " a^T" : "", transpose_b ? " b^T" : "");
  check_on_cuda({normal(a, 1), normal(b, 2), normal(y, 3)}, [&](const std::vector<Tensor>& in) {
    Tensor out = clone(in[2]);
    WEFT_LAUNCH(out, matmul(out, in[0], in[1], transpose_a, transpose_b, alpha, accumulate));
    return std::vector<Tensor>{out};
  });
}

}  // namespace

TEST_CASE("cuda: matmul of every transpose") {
  for (const auto& [n, m, k] : {std::array<int64_t, 3>{1, 1, 1}, {7, 5, 3}, {33, 1, 65}, {1, 17, 9}, {3, 4, 0}, {0, 4, 3}}) {
    for (bool ta : {false, true}) {
      for (bool tb : {false, true}) {
        const Shape a = ta ? Shape{k, n} : Shape{n, k}, b = tb ? Shape{m, k} : Shape{k, m};
        check_product(a, b, {n, m}, ta, tb);
        check_product(a, b, {n, m}, ta, tb, -0.5, true);
      }
    }
  }
}

TEST_CASE("cuda: matmul of broadcast batches") {
  check_product({4, 3, 5}, {5, 2}, {4, 3, 2}, false, false);
  check_product({4, 5, 3}, {5, 2}, {4, 3, 2}, true, false);
  check_product({3, 5}, {4, 5, 2}, {4, 3, 2}, false, false);
  check_product({2, 1, 3, 5}, {4, 5, 2}, {2, 4, 3, 2}, false, false);
  check_product({2, 3, 1, 4, 5}, {1, 3, 2, 6, 5}, {2, 3, 2, 4, 6}, false, true, 2, true);
  check_product({2, 3, 1, 4, 5}, {2, 1, 2, 5, 6}, {2, 3, 2, 4, 6}, false, false);
  check_product({0, 3, 5}, {0, 5, 2}, {0, 3, 2}, false, false);
}
