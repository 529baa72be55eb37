// Attention modules, forward and backward with the gradients of the input and of every parameter: attentions_*, [1, n, 512], 8 heads.
#include "bench.h"
#include "weft/attention/local.h"
#include "weft/attention/vanilla.h"
#include "weft/autograd/ops.h"
#include "weft/nn/module.h"

namespace weft::bench {
namespace {

constexpr int64_t dim = 512;

// Operations of forward and backward: four projections of dim x dim, and attention of `visible` keys for every query.
double operations(int64_t n, double visible) {
  const double N = static_cast<double>(n), C = static_cast<double>(dim);
  return 3 * 8 * N * C * C + 3.5 * 4 * N * visible * C;
}

// `make` builds the module: any with operator()(x) -> {y, weights}.
template <class Make>
Case module_case(const std::string& name, int64_t n, double visible, Make make) {
  return {
      .name = "attentions_" + name + "_n" + std::to_string(n), .operations = operations(n, visible), .set_up = [=](Device device) -> Run {
        auto module = std::make_shared<decltype(make())>(make());
        convert(*module, DType::float32, device);
        const Tensor x = parameter(to(randn({1, n, dim}), device)), dy = to(randn({1, n, dim}), device);
        return [=] {
          backward((*module)(x).y, dy);
          zero_grad(*module);
          zero_grad(x);
        };
      }};
}

}  // namespace

void add_mechanism_cases(Cases& cases) {
  constexpr int64_t window = 64;
  for (const int64_t n : {1024, 4096}) {
    cases.push_back(module_case("MultiHeadSelfAttention", n, static_cast<double>(n),
                                [] { return MultiHeadSelfAttention({.dim = dim, .heads = 8, .dropout = 0}); }));
    cases.push_back(module_case("LocalSelfAttention", n, window + 1,
                                [] { return LocalSelfAttention({.dim = dim, .heads = 8, .dropout = 0}, {.window = window}); }));
  }
}

}  // namespace weft::bench
