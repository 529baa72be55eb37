// Exact attention by the fused kernel: sdpa_*, [1, 8, n, 64].
#include "bench.h"
#include "weft/attention/mechanism.h"
#include "weft/autograd/ops.h"

namespace weft::bench {
namespace {

constexpr int64_t heads = 8, head_dim = 64;

Case sdpa(int64_t n, bool causal, bool with_backward) {
  const std::string name = std::string(with_backward ? "sdpa_fb" : "sdpa_f") + "_n" + std::to_string(n) + (causal ? "_causal" : "_full");
  const double forward = 4.0 * heads * static_cast<double>(n) * static_cast<double>(n) * head_dim / (causal ? 2 : 1);
  return {.name = name, .operations = with_backward ? 3.5 * forward : forward, .set_up = [=](Device device) -> Run {
            const Mechanism attend = make_mechanism("dot_product", {.heads = heads, .head_dim = head_dim});
            std::vector<Tensor> qkv;
            for (int i = 0; i < 3; ++i) qkv.push_back(parameter(to(randn({1, heads, n, head_dim}), device)));
            const Tensor dy = to(randn({1, heads, n, head_dim}), device);
            return [=] {
              const NoGrad no_grad(!with_backward);
              const Tensor y = attend(qkv[0], qkv[1], qkv[2], {.causal = causal, .layout = AttentionLayout::bhnd}).y;
              if (with_backward) gradients(y, qkv, dy);
            };
          }};
}

}  // namespace

void add_attention_cases(Cases& cases) {
  for (const bool with_backward : {false, true}) {
    for (const int64_t n : {512, 2048, 8192}) {
      for (const bool causal : {false, true}) cases.push_back(sdpa(n, causal, with_backward));
    }
  }
  cases.push_back(sdpa(65536, false, false));
}

}  // namespace weft::bench
