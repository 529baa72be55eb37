#include "optimizer.h"

#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/sgd.h"

namespace weft::golden {
namespace {

std::unique_ptr<Optimizer> make_adam(Arguments& settings, std::vector<Tensor> parameters, bool decoupled) {
  const std::vector<double> betas = settings.has("betas") ? settings.numbers("betas") : std::vector<double>{0.9, 0.999};
  WEFT_CHECK(betas.size() == 2, "optimizer: betas must be two numbers");
  AdamOptions options;
  options.lr = settings.number("lr", 1e-3);
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  options.eps = settings.number("eps", 1e-8);
  options.weight_decay = settings.number("weight_decay", decoupled ? 0.01 : 0);
  options.decoupled = settings.flag("decoupled_weight_decay", decoupled);
  options.amsgrad = settings.flag("amsgrad", false);
  options.maximize = settings.flag("maximize", false);
  return std::make_unique<Adam>(std::move(parameters), options);
}

std::unique_ptr<Optimizer> make_sgd(Arguments& settings, std::vector<Tensor> parameters) {
  SgdOptions options;
  options.lr = settings.number("lr", 1e-3);
  options.momentum = settings.number("momentum", 0);
  options.dampening = settings.number("dampening", 0);
  options.weight_decay = settings.number("weight_decay", 0);
  options.nesterov = settings.flag("nesterov", false);
  options.maximize = settings.flag("maximize", false);
  return std::make_unique<Sgd>(std::move(parameters), options);
}

}  // namespace

Trainer::Trainer(Arguments& settings, const std::vector<NamedTensor>& tensors) {
  for (const char* name : {"capturable", "differentiable", "foreach", "fused"}) settings.ignore(name);  // how, not what, PyTorch computes
  const std::string name = settings.text("name");
  std::vector<Tensor> parameters = detail::parameters_of(tensors);
  if (name == "Adam" || name == "AdamW") {
    optimizer_ = make_adam(settings, std::move(parameters), name == "AdamW");
  } else {
    WEFT_CHECK(name == "SGD", "optimizer: expected Adam, AdamW or SGD, got {}", name);
    optimizer_ = make_sgd(settings, std::move(parameters));
  }
  max_norm_ = settings.number("clip", 0);
}

double Trainer::step() {
  const Tensor norm = grad_norm(optimizer_->parameters());
  max_norm_ > 0 ? optimizer_->step(clip_scale(norm, max_norm_)) : optimizer_->step();
  optimizer_->zero_grad();
  return norm.item();
}

}  // namespace weft::golden
