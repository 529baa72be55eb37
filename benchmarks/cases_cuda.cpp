// What a GPU is measured by: kernels that memory bounds beside a copy, attention and GPT-2 training in bfloat16.
#include "bench.h"
#include "weft/attention/mechanism.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/models/language_model.h"

namespace weft::bench {
namespace {

Tensor random_bf16(const Shape& shape, Device device) { return to(randn(shape, {.device = device}), DType::bfloat16); }

Case bound_by_memory(const std::string& name, double bytes, std::function<Run(Device)> set_up) {
  return {.name = "cuda_" + name, .set_up = std::move(set_up), .bytes = bytes, .cuda_only = true};
}

// The yardstick: what a copy from device memory to device memory reaches.
Case copy() {
  constexpr int64_t bytes = int64_t{1} << 30;
  return bound_by_memory("copy", 2.0 * bytes, [](Device device) -> Run {
    const Tensor from = zeros({bytes}, {.dtype = DType::boolean, .device = device});
    Tensor to = empty_like(from);
    return [=]() mutable { to.copy_from(from); };
  });
}

void add_memory_cases(Cases& cases) {
  constexpr int64_t rows = 32768, dim = 1024, vocab = 50257, tokens = 8192;
  constexpr double elements = double{rows} * dim, logits = double{tokens} * vocab;
  const auto rows_of = [](Device device) { return random_bf16({rows, dim}, device); };
  cases.push_back(copy());
  cases.push_back(bound_by_memory("gelu_bf16", 4 * elements, [=](Device device) -> Run {
    const Tensor x = rows_of(device);
    return [=] { gelu(x); };
  }));
  cases.push_back(bound_by_memory("add_bf16", 6 * elements, [=](Device device) -> Run {
    const Tensor x = rows_of(device), y = rows_of(device);
    return [=] { x + y; };
  }));
  cases.push_back(bound_by_memory("softmax_bf16", 4 * elements, [=](Device device) -> Run {
    const Tensor x = rows_of(device);
    return [=] { softmax(x); };
  }));
  cases.push_back(bound_by_memory("layer_norm_bf16", 4 * elements, [=](Device device) -> Run {
    const Tensor x = rows_of(device), weight = random_bf16({dim}, device), bias = random_bf16({dim}, device);
    return [=] { layer_norm(x, weight, bias); };
  }));
  cases.push_back(bound_by_memory("layer_norm_backward_bf16", 6 * elements, [=](Device device) -> Run {
    const Tensor x = parameter(rows_of(device)), weight = parameter(random_bf16({dim}, device)),
                 bias = parameter(random_bf16({dim}, device));
    const Tensor y = layer_norm(x, weight, bias), dy = rows_of(device);
    return [=] {
      gradients(std::vector<Tensor>{y}, std::vector<Tensor>{dy}, std::vector<Tensor>{x, weight, bias}, {.retain_graph = true});
    };
  }));
  cases.push_back(bound_by_memory("transpose_bf16", 4 * elements, [=](Device device) -> Run {
    const Tensor x = rows_of(device);
    return [=] { permute(x, {1, 0}); };
  }));
  // Forward and backward: the logits are read twice, their gradient written once.
  cases.push_back(bound_by_memory("cross_entropy_bf16", 6 * logits, [=](Device device) -> Run {
    const Tensor x = parameter(random_bf16({tokens, vocab}, device)), targets = randint(vocab, {tokens}, device);
    return [=] { gradients(cross_entropy(x, targets), {x}); };
  }));
  // GPT-2's parameters in float32: gradient read; weight and two moments read and written.
  constexpr int64_t parameters = 124'439'808;
  cases.push_back(bound_by_memory("adamw_124m", 28.0 * parameters, [](Device device) -> Run {
    const Tensor p = parameter(randn({parameters}, {.device = device}));
    auto optimizer = std::make_shared<AdamW>(std::vector<Tensor>{p});
    set_grad(p, randn({parameters}, {.device = device}));
    return [=] { optimizer->step(); };
  }));
}

// 16,384 tokens in all, 2048 features over heads of this width: the setting of the FlashAttention papers.
Case attention(int64_t n, int64_t head_dim, bool causal, bool with_backward) {
  constexpr int64_t tokens = 16384, dim = 2048;
  const int64_t batch = tokens / n, heads = dim / head_dim;
  const double forward = 4.0 * static_cast<double>(batch * heads) * static_cast<double>(n) * static_cast<double>(n) *
                         static_cast<double>(head_dim) / (causal ? 2 : 1);
  const std::string name = std::string("cuda_sdpa_") + (with_backward ? "b" : "f") + "_bf16_d" + std::to_string(head_dim) + "_n" +
                           std::to_string(n) + (causal ? "_causal" : "_full");
  return {.name = name,
          .operations = with_backward ? 2.5 * forward : forward,
          .set_up = [=](Device device) -> Run {
            const Mechanism attend = make_mechanism("dot_product", {.heads = heads, .head_dim = head_dim});
            std::vector<Tensor> qkv;
            for (int i = 0; i < 3; ++i) qkv.push_back(parameter(random_bf16({batch, n, heads, head_dim}, device)));
            const Tensor dy = random_bf16({batch, n, heads, head_dim}, device);
            if (!with_backward) {
              return [=] {
                const NoGrad no_grad;
                attend(qkv[0], qkv[1], qkv[2], {.causal = causal});
              };
            }
            const Tensor y = attend(qkv[0], qkv[1], qkv[2], {.causal = causal}).y;
            return [=] { gradients(std::vector<Tensor>{y}, std::vector<Tensor>{dy}, qkv, {.retain_graph = true}); };
          },
          .cuda_only = true};
}

// GPT-2 124M, as llm.c trains it; a result is a token.
Case gpt2(DType dtype, int64_t batch) {
  const LanguageModelSettings s{.vocab_size = 50304, .dim = 768, .depth = 12, .heads = 12, .context = 1024};
  const double C = 768, N = 1024, tokens = static_cast<double>(batch) * N;
  const double operations = 6 * tokens * (12 * 12 * C * C + C * 50304) + 3.5 * static_cast<double>(batch) * 12 * 2 * N * N * C;
  return {.name = "cuda_train_gpt2_124m_" + std::string(name_of(dtype)) + "_b" + std::to_string(batch) + "_n1024",
          .operations = operations,
          .set_up = [=](Device device) -> Run {
            auto model = std::make_shared<LanguageModel>(make_language_model("transformer", s));
            convert(*model, dtype, device);
            auto optimizer = std::make_shared<AdamW>(parameters(*model), AdamWOptions{.lr = 1e-4});
            const Tensor ids = randint(50257, {batch, s.context + 1}, device);
            const Tensor inputs = slice(ids, 1, 0, s.context), targets = slice(ids, 1, 1, s.context + 1);
            return [=] {
              backward(cross_entropy((*model)(inputs), targets));
              optimizer->step(clip_scale(grad_norm(optimizer->parameters()), 1.0));
              optimizer->zero_grad();
            };
          },
          .results_per_run = static_cast<int>(batch * s.context),
          .cuda_only = true};
}

}  // namespace

void add_cuda_cases(Cases& cases) {
  add_memory_cases(cases);
  for (const bool with_backward : {false, true}) {
    for (const int64_t head_dim : {64, 128}) {
      for (const int64_t n : {1024, 4096, 16384}) {
        for (const bool causal : {false, true}) cases.push_back(attention(n, head_dim, causal, with_backward));
      }
    }
  }
  cases.push_back(gpt2(DType::float32, 4));
  cases.push_back(gpt2(DType::bfloat16, 16));
}

}  // namespace weft::bench
