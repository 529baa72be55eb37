// Matrix products: sgemm_*, the yardstick of everything else.
#include "bench.h"
#include "weft/autograd/ops.h"

namespace weft::bench {
namespace {

// `batch` products of [n, k] and [k, m].
Case product(const std::string& name, int64_t batch, int64_t n, int64_t m, int64_t k) {
  return {.name = name, .operations = 2.0 * static_cast<double>(batch * n * m * k), .set_up = [=](Device device) -> Run {
            const Tensor a = to(randn({batch, n, k}), device), b = to(randn({batch, k, m}), device);
            return [=] {
              const NoGrad no_grad;
              matmul(a, b);
            };
          }};
}

}  // namespace

void add_matmul_cases(Cases& cases) {
  cases.push_back(product("sgemm_2048", 1, 2048, 2048, 2048));
  cases.push_back(product("sgemm_768x512x512", 1, 768, 512, 512));
  cases.push_back(product("sgemm_batched_64", 512, 64, 64, 64));
}

}  // namespace weft::bench
