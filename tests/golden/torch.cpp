// Adapters for plain PyTorch: layers, functions, losses, optimizers, schedules.
#include <cmath>

#include "golden.h"
#include "weft/attention/dot_product.h"
#include "weft/attention/scaled_dot_product.h"
#include "weft/autograd/ops.h"
#include "weft/nn/embedding.h"
#include "weft/nn/linear.h"
#include "weft/nn/norm.h"
#include "weft/nn/sequential.h"
#include "weft/train/schedule.h"

namespace weft::golden {
namespace {

Subject function_of(std::function<Tensor(const Tensors&)> f) {
  return {.forward = [f = std::move(f)](const Tensors& inputs) -> Tensors { return {{"y", f(inputs)}}; }};
}

// A module called with `input`.
template <class M>
Subject layer(M made) {
  auto module = std::make_shared<M>(std::move(made));
  Subject subject = subject_of(module);
  subject.forward = [module](const Tensors& inputs) -> Tensors { return {{"y", (*module)(need(inputs, "input"))}}; };
  return subject;
}

// Training and evaluation are the same here, and so is where options stand.
void ignore_common(Request& request) {
  for (const char* name : {"device", "dtype", "inplace"}) {
    request.options.ignore(name);
    request.call.ignore(name);
  }
  request.call.ignore("training");
}

// ---- layers -------------------------------------------------------------------------------------------------------------------------

Subject make_linear(Request& r) {
  return layer(
      Linear({.in = r.options.integer("in_features"), .out = r.options.integer("out_features"), .bias = r.options.flag("bias", true)}));
}

Subject make_embedding(Request& r) {
  for (const char* name : {"max_norm", "padding_idx"}) r.options.expect(name, Json());
  for (const char* name : {"scale_grad_by_freq", "sparse"}) r.options.expect(name, false);
  return layer(Embedding({.vocab_size = r.options.integer("num_embeddings"), .dim = r.options.integer("embedding_dim")}));
}

// A norm over the trailing axes of the weight's shape: ours is over one axis, so they are flattened into it.
template <class Norm>
struct OverAxes {
  Norm norm;
  Shape shape;
  Tensor weight, bias;

  OverAxes(Norm made, const std::vector<int64_t>& axes, bool with_weight, bool with_bias) : norm(std::move(made)), shape(axes) {
    if (with_weight) weight = parameter(ones(shape));
    if (with_bias) bias = parameter(zeros(shape));
  }
  Tensor operator()(const Tensor& x) const {
    Norm flat_norm = norm;
    const auto flat = [&](const Tensor& p) { return p.defined() ? reshape(p, {shape.numel()}) : p; };
    flat_norm.weight = flat(weight);
    if constexpr (requires { flat_norm.bias; }) flat_norm.bias = flat(bias);
    const Tensor y = flat_norm(flatten(x, x.rank() - shape.rank()));
    return reshape(y, std::vector<int64_t>(x.shape().begin(), x.shape().end()));
  }
  void visit(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
};

Subject make_layer_norm(Request& r) {
  const std::vector<int64_t> axes = r.options.integers("normalized_shape");
  const bool affine = r.options.flag("elementwise_affine", true), bias = r.options.flag("bias", true);
  const LayerNorm norm({.dim = Shape(axes).numel(), .eps = r.options.number("eps", 1e-5), .weight = false, .bias = false});
  return layer(OverAxes<LayerNorm>(norm, axes, affine, affine && bias));
}

Subject make_rms_norm(Request& r) {
  const std::vector<int64_t> axes = r.options.integers("normalized_shape");
  RMSNormOptions options{.dim = Shape(axes).numel(), .weight = false};
  if (r.options.has("eps")) options.eps = r.options.number("eps");
  return layer(OverAxes<RMSNorm>(RMSNorm(options), axes, r.options.flag("elementwise_affine", true), false));
}

Subject make_group_norm(Request& r) {
  return layer(GroupNorm({.groups = r.options.integer("num_groups"),
                          .channels = r.options.integer("num_channels"),
                          .eps = r.options.number("eps", 1e-5),
                          .affine = r.options.flag("affine", true)}));
}

// Conv1d and Conv2d.
struct Convolution {
  Tensor weight, bias;
  ConvOptions options;

  Tensor operator()(const Tensor& x) const {
    return weight.rank() == 3 ? conv1d(x, weight, bias, options) : conv2d(x, weight, bias, options);
  }
  void visit(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
};

int64_t same_along_all(Arguments& options, const char* name, int64_t fallback) {
  if (!options.has(name)) return fallback;
  const std::vector<int64_t> values = options.integers(name);
  for (int64_t value : values) WEFT_CHECK(value == values[0], "convolution: {} must be the same along all axes", name);
  return values.at(0);
}

Subject make_convolution(Request& r, int axes) {
  Convolution made;
  made.options.groups = r.options.integer("groups", 1);
  made.options.stride = same_along_all(r.options, "stride", 1);
  made.options.padding = same_along_all(r.options, "padding", 0);
  r.options.expect("padding_mode", "zeros");
  WEFT_CHECK(same_along_all(r.options, "dilation", 1) == 1, "convolution: dilation must be 1");
  const int64_t in = r.options.integer("in_channels"), out = r.options.integer("out_channels");
  std::vector<int64_t> kernel = r.options.integers("kernel_size");
  if (kernel.size() == 1) kernel.assign(static_cast<size_t>(axes), kernel[0]);
  Shape shape{out, in / made.options.groups};
  for (int64_t size : kernel) shape.push_back(size);
  made.weight = parameter(zeros(shape));
  if (r.options.flag("bias", true)) made.bias = parameter(zeros({out}));
  return layer(made);
}

// ---- functions ------------------------------------------------------------------------------------------------------------------------

Subject make_unary(Tensor (*f)(const Tensor&, Location)) {
  return function_of([f](const Tensors& in) { return f(need(in, "input"), Location::current()); });
}

Subject make_gelu(Request& r) {
  const std::string approximate = r.call.text("approximate", "none");
  WEFT_CHECK(approximate == "none" || approximate == "tanh", "gelu: approximate must be none or tanh, got {}", approximate);
  return make_unary(approximate == "tanh" ? gelu_tanh : gelu);
}

Subject make_softplus(Request& r) {
  const double beta = r.call.number("beta", 1);
  r.call.expect("threshold", 20);
  return function_of([beta](const Tensors& in) { return softplus(need(in, "input") * beta) / beta; });
}

Subject make_elu(Request& r) {
  return function_of([alpha = r.call.number("alpha", 1)](const Tensors& in) { return elu(need(in, "input"), alpha); });
}

Subject make_leaky_relu(Request& r) {
  return function_of([slope = r.call.number("negative_slope", 0.01)](const Tensors& in) { return leaky_relu(need(in, "input"), slope); });
}

Subject make_softmax(Request& r, bool log) {
  return function_of([=, axis = static_cast<int>(r.call.integer("dim"))](const Tensors& in) {
    return log ? log_softmax(need(in, "input"), axis) : softmax(need(in, "input"), axis);
  });
}

Subject make_logsumexp(Request& r) {
  std::vector<int> axes;
  for (int64_t axis : r.call.integers("dim")) axes.push_back(static_cast<int>(axis));
  const bool keep_dims = r.call.flag("keepdim", false);
  return function_of([=](const Tensors& in) { return logsumexp(need(in, "input"), axes, keep_dims); });
}

Subject make_cumsum(Request& r) {
  return function_of([axis = static_cast<int>(r.call.integer("dim"))](const Tensors& in) { return cumsum(need(in, "input"), axis); });
}

Subject make_normalize(Request& r) {
  WEFT_CHECK(r.call.number("p", 2) == 2, "normalize: p must be 2");
  return function_of([axis = static_cast<int>(r.call.integer("dim", 1)), eps = r.call.number("eps", 1e-12)](const Tensors& in) {
    return l2_normalize(need(in, "input"), axis, eps);
  });
}

// ---- losses ---------------------------------------------------------------------------------------------------------------------------

Reduction reduction_of(Request& r) {
  const std::string name = r.call.text("reduction", "mean");
  WEFT_CHECK(name == "mean" || name == "sum" || name == "none", "reduction must be mean, sum or none, got {}", name);
  return name == "mean" ? Reduction::mean : name == "sum" ? Reduction::sum : Reduction::none;
}

Subject make_cross_entropy(Request& r) {
  r.call.expect("weight", Json());
  const CrossEntropyOptions options{.reduction = reduction_of(r),
                                    .ignore_index = r.call.integer("ignore_index", -100),
                                    .label_smoothing = r.call.number("label_smoothing", 0)};
  return function_of([options](const Tensors& in) { return cross_entropy(need(in, "input"), need(in, "target"), options); });
}

Subject make_pair_loss(Request& r, Tensor (*loss)(const Tensor&, const Tensor&, Reduction, Location)) {
  r.call.expect("weight", Json());
  r.call.expect("pos_weight", Json());
  return function_of([loss, reduction = reduction_of(r)](const Tensors& in) {
    return loss(need(in, "input"), need(in, "target"), reduction, Location::current());
  });
}

// ---- attention ------------------------------------------------------------------------------------------------------------------------

Subject make_sdpa(Request& r) {
  AttendOptions options{.layout = AttentionLayout::bhnd};
  if (r.call.has("scale")) options.scale = r.call.number("scale");
  r.call.ignore("enable_gqa");  // ours shares key/value heads whenever there are fewer of them
  r.call.expect("dropout_p", 0.0);
  const bool causal = r.call.flag("is_causal", false);
  return function_of([options, causal](const Tensors& in) {
    AttendOptions call = options;
    const Tensor &q = need(in, "query"), k = need(in, "key"), v = need(in, "value");
    const Tensor mask = get(in, "attn_mask");
    if (mask.defined() && mask.dtype() == DType::boolean) call.mask = mask;
    if (mask.defined() && is_float(mask.dtype())) call.bias = mask;
    // PyTorch aligns the diagonal at the first key, we at the last.
    const int64_t n = q.size(-2), m = k.size(-2);
    if (causal && n == m) call.causal = true;
    if (causal && n != m) call.mask = tril_mask(n, m, 0, q.device());
    return q.rank() == 4 ? dot_product(q, k, v, call).y : scaled_dot_product_attention(q, k, v, call).y;
  });
}

// ---- schedules ------------------------------------------------------------------------------------------------------------------------

Subject make_warmup_cosine(Request& r) {
  const ScheduleOptions options{.lr = r.options.number("lr"),
                                .min_lr = r.options.number("min_lr", 0),
                                .warmup_steps = r.options.integer("warmup_steps", 0),
                                .total_steps = r.options.integer("total_steps")};
  const int64_t steps = r.file.tensors.at("out.lr").numel();
  return {.forward = [=](const Tensors&) -> Tensors {
    std::vector<double> lr;
    for (int64_t step = 0; step < steps; ++step) lr.push_back(warmup_cosine(step, options));
    return {{"lr", from_vector(lr, {steps})}};
  }};
}

// ---- training -------------------------------------------------------------------------------------------------------------------------

Subject make_classifier(Request&) {
  auto module = std::make_shared<Sequential<Linear, Activation, LayerNorm, Linear>>(Linear({.in = 6, .out = 16}), Activation::gelu,
                                                                                    LayerNorm({.dim = 16}), Linear({.in = 16, .out = 3}));
  Subject subject = subject_of(module);
  subject.forward = [module](const Tensors& inputs) -> Tensors { return {{"y", (*module)(need(inputs, "input"))}}; };
  subject.loss = [module](const Tensors& batch) { return cross_entropy((*module)(need(batch, "input")), need(batch, "target")); };
  return subject;
}

}  // namespace

void add_torch(Adapters& adapters) {
  const auto add = [&](const std::string& name, Adapter make) {
    adapters["torch/" + name] = [make = std::move(make)](Request& request) {
      ignore_common(request);
      return make(request);
    };
  };
  add("Linear", make_linear);
  add("Embedding", make_embedding);
  add("LayerNorm", make_layer_norm);
  add("RMSNorm", make_rms_norm);
  add("GroupNorm", make_group_norm);
  add("Conv1d", [](Request& r) { return make_convolution(r, 1); });
  add("Conv2d", [](Request& r) { return make_convolution(r, 2); });

  add("gelu", make_gelu);
  add("gelu_tanh", [](Request&) { return make_unary(gelu_tanh); });
  add("relu", [](Request&) { return make_unary(relu); });
  add("relu_squared", [](Request&) { return make_unary(relu_squared); });
  add("silu", [](Request&) { return make_unary(silu); });
  add("sigmoid", [](Request&) { return make_unary(sigmoid); });
  add("tanh", [](Request&) { return make_unary(tanh); });
  add("softplus", make_softplus);
  add("elu", make_elu);
  add("leaky_relu", make_leaky_relu);
  add("softmax", [](Request& r) { return make_softmax(r, false); });
  add("log_softmax", [](Request& r) { return make_softmax(r, true); });
  add("logsumexp", make_logsumexp);
  add("cumsum", make_cumsum);
  add("normalize", make_normalize);

  add("cross_entropy", make_cross_entropy);
  add("mse_loss", [](Request& r) { return make_pair_loss(r, mse_loss); });
  add("binary_cross_entropy_with_logits", [](Request& r) { return make_pair_loss(r, binary_cross_entropy_with_logits); });

  add("scaled_dot_product_attention", make_sdpa);
  add("warmup_cosine", make_warmup_cosine);
  add("Sequential(Linear(6,16),GELU,LayerNorm(16),Linear(16,3))+cross_entropy", make_classifier);
}

}  // namespace weft::golden
