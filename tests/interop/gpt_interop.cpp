// The GPT of train/models/transformer.h against PyTorch (gpt_torch.py):
//
//     gpt_interop CASE...       loads the weights of each case and compares logits, loss and every gradient with what PyTorch has computed
//     gpt_interop --make FILE   trains a GPT for a few steps and writes the same kind of case, for PyTorch to compare
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>

#include "weft/autograd/ops.h"
#include "weft/nn/module.h"
#include "weft/train/adam.h"
#include "weft/train/models/transformer.h"
#include "weft/train/safetensors.h"

using namespace weft;

namespace {

Tensor loss_of(const TransformerLM& model, const Tensor& tokens, const Tensor& targets, Tensor* logits = nullptr) {
  const Tensor y = model(tokens);
  if (logits != nullptr) *logits = clone(y);
  return cross_entropy(y, targets);
}

// "out.logits", "out.loss" and "grad.NAME" of every weight, in float64.
StateDict compute(TransformerLM& model, const Tensor& tokens, const Tensor& targets) {
  convert(model, DType::float64);
  Tensor logits;
  const Tensor loss = loss_of(model, tokens, targets, &logits);
  backward(loss);
  StateDict results = {{"out.logits", logits}, {"out.loss", detach(loss)}};
  for (const NamedTensor& entry : detail::collect(model)) results.emplace_back("grad." + entry.name, grad(*entry.tensor));
  return results;
}

void make(const std::string& path) {
  manual_seed(1);
  TransformerLM model({.vocab_size = 13, .dim = 24, .depth = 2, .heads = 4, .context = 10, .init_std = 0.3});
  const Tensor ids = randint(13, {4, 11});
  const Tensor tokens = slice(ids, 1, 0, 10), targets = slice(ids, 1, 1, 11);
  AdamW optimizer(parameters(model), {.lr = 1e-2});
  for (int step = 0; step < 5; ++step) {
    backward(loss_of(model, tokens, targets));
    optimizer.step();
    optimizer.zero_grad();
  }
  TensorMap file{.tensors = state_dict(model),  // float32, as training leaves them
                 .metadata = {{"vocab_size", "13"}, {"dim", "24"}, {"depth", "2"}, {"heads", "4"}, {"context", "10"}}};
  for (auto& entry : compute(model, tokens, targets)) file.tensors.push_back(entry);
  file.tensors.emplace_back("in.tokens", tokens);
  file.tensors.emplace_back("in.targets", targets);
  save_safetensors(path, file);
}

// |a - b| / (1 + |b|) at its largest; infinity for NaN and for other shapes.
double difference(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return INFINITY;
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = std::fabs(x[i] - y[i]) / (1 + std::fabs(y[i]));
    worst = d <= worst ? worst : (std::isnan(d) ? INFINITY : d);
  }
  return worst;
}

bool check(const std::string& path) {
  constexpr double tolerance = 1e-9;
  const TensorMap file = load_safetensors(path);
  const auto size = [&](const char* name) { return static_cast<int64_t>(std::stoll(file.metadata.at(name))); };
  TransformerLM model(
      {.vocab_size = size("vocab_size"), .dim = size("dim"), .depth = size("depth"), .heads = size("heads"), .context = size("context")});
  convert(model, DType::float64);
  StateDict weights;
  for (const auto& [name, tensor] : file.tensors) {
    if (!name.starts_with("in.") && !name.starts_with("out.") && !name.starts_with("grad.")) weights.emplace_back(name, tensor);
  }
  load_state_dict(model, weights);
  double worst = 0;
  bool good = true;
  for (const auto& [name, tensor] : compute(model, file.at("in.tokens"), file.at("in.targets"))) {
    const double d = difference(tensor, file.at(name));
    worst = std::max(worst, d);
    if (d <= tolerance) continue;
    good = false;
    std::printf("%s: %s differs by %g, allowed is %g\n", path.c_str(), name.c_str(), d, tolerance);
  }
  if (good) std::printf("weights of PyTorch in weft: logits, loss and %zu gradients agree to %.1e\n", weights.size(), worst);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::string(argv[1]) == "--make") {
      make(argv[2]);
      return 0;
    }
    bool good = argc > 1;
    for (int i = 1; i < argc; ++i) good = check(argv[i]) && good;
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpt_interop: %s\n", error.what());
    return 1;
  }
}
