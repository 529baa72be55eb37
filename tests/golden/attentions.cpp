// Adapters for the attentions package.
#include <cmath>

#include "golden.h"
#include "weft/attention/heads.h"
#include "weft/attention/local.h"
#include "weft/attention/mask.h"
#include "weft/attention/scaled_dot_product.h"
#include "weft/attention/vanilla.h"
#include "weft/autograd/ops.h"
#include "weft/nn/rotary.h"

namespace weft::golden {
namespace {

// ---- modules ----------------------------------------------------------------------------------------------------------------------------

SelfAttentionOptions common_options(Request& r) {
  SelfAttentionOptions options;
  options.dim = r.options.integer("d_model");
  options.input_dim = r.options.integer("input_dim", 0);
  options.dropout = r.options.number("dropout", 0.1);
  options.bias = r.options.flag("bias", false);
  options.rope = r.options.flag("rope", false);
  options.temperature = r.options.number("temperature", 1);
  return options;
}

/// A floating mask of the original is our bias, except where the module reads it as 0 / 1.
SelfAttentionCall call_of(const Request& r, const Tensors& inputs, bool floating_mask) {
  SelfAttentionCall call;
  const Tensor mask = get(inputs, "mask");
  if (mask.defined() && (mask.dtype() == DType::boolean || floating_mask)) call.mask = mask;
  if (mask.defined() && mask.dtype() != DType::boolean && !floating_mask) call.bias = mask;
  call.dropout_multiplier = get(inputs, "dropout_multiplier");
  if (r.wants("stored")) call.weights = Weights::head_mean;
  if (r.wants("weights")) call.weights = Weights::dense;
  return call;
}

template <class M>
Subject self_attention(Request& r, M made, bool floating_mask = false) {
  auto module = std::make_shared<M>(std::move(made));
  set_training(*module, r.call.flag("training", false));
  r.call.expect("loss", "mse");
  Subject subject = subject_of(module);
  subject.forward = [module, r, floating_mask](const Tensors& inputs) -> Tensors {
    const Attended result = (*module)(need(inputs, "x"), call_of(r, inputs, floating_mask));
    Tensors outputs{{"y", result.y}};
    if (r.wants("weights")) outputs["weights"] = result.weights;
    if (r.wants("stored")) outputs["stored"] = module->attention_weights();
    return outputs;
  };
  subject.loss = [forward = subject.forward](const Tensors& batch) {
    return mse_loss(forward(batch).at("y"), need(batch, "target"));  //
  };
  return subject;
}

Subject make_vanilla(Request& r) { return self_attention(r, VanillaSelfAttention(common_options(r))); }

Subject make_multi_head(Request& r) {
  SelfAttentionOptions options = common_options(r);
  options.heads = r.options.integer("num_heads");
  return self_attention(r, MultiHeadSelfAttention(options));
}

Subject make_local(Request& r) {
  SelfAttentionOptions options = common_options(r);
  options.heads = r.options.integer("num_heads", 8);
  return self_attention(r, LocalSelfAttention(options, {.window = r.options.integer("window_size", 128)}), true);
}

// ---- functions --------------------------------------------------------------------------------------------------------------------------

Subject make_sdpa(Request& r) {
  const double temperature = r.call.number("temperature", 1);
  const bool training = r.call.flag("training", false);
  r.call.ignore("dropout");  // its multiplier is given
  return {.forward = [r, temperature, training](const Tensors& inputs) -> Tensors {
    AttendOptions options;
    const Tensor &q = need(inputs, "query"), mask = get(inputs, "mask");
    options.scale = 1 / (std::sqrt(static_cast<double>(q.size(-1))) * temperature);
    if (mask.defined() && mask.dtype() == DType::boolean) options.mask = mask;
    if (mask.defined() && mask.dtype() != DType::boolean) options.bias = mask;
    if (training) options.dropout_multiplier = get(inputs, "dropout_multiplier");
    options.return_weights = r.wants("weights");
    const Attended result = scaled_dot_product_attention(q, need(inputs, "key"), need(inputs, "value"), options);
    Tensors outputs{{"y", result.y}};
    if (options.return_weights) outputs["weights"] = result.weights;
    return outputs;
  }};
}

Subject make_rope(Request& r) {
  const bool rope = r.options.flag("rope", false);
  return {.forward = [rope](const Tensors& inputs) -> Tensors {
    const auto turn = [rope](const Tensor& x) { return rope ? rotary(x, {.axis = -2}) : x; };
    return {{"query", turn(need(inputs, "query"))}, {"key", turn(need(inputs, "key"))}};
  }};
}

Subject make_split(Request& r) {
  const int64_t heads = r.call.integer("num_heads"), head_dim = r.call.integer("d_head");
  return {.forward = [=](const Tensors& inputs) -> Tensors {
    const Tensor& x = need(inputs, "x");
    WEFT_CHECK(x.size(-1) == heads * head_dim, "reshape_for_attention: {} is not {} heads of {}", x, heads, head_dim);
    return {{"y", split_heads(x, heads)}};
  }};
}

Subject make_merge(Request& r) {
  const int64_t dim = r.call.integer("d_model");
  return {.forward = [=](const Tensors& inputs) -> Tensors {
    const Tensor y = merge_heads(need(inputs, "x"));
    WEFT_CHECK(y.size(-1) == dim, "reshape_from_attention: d_model is {}, the heads make {}", dim, y);
    return {{"y", y}};
  }};
}

// ---- masks ------------------------------------------------------------------------------------------------------------------------------

Subject mask_of(std::function<Tensor(const Tensors&)> build) {
  return {.forward = [build = std::move(build)](const Tensors& inputs) -> Tensors { return {{"mask", build(inputs)}}; }};
}

Subject make_causal_mask(Request& r) {
  return mask_of([n = r.call.integer("seq_len")](const Tensors&) { return causal_mask(n); });
}

Subject make_padding_mask(Request& r) {
  std::optional<int64_t> max_len;
  if (r.call.has("max_len")) max_len = r.call.integer("max_len");
  return mask_of([max_len](const Tensors& inputs) { return padding_mask(need(inputs, "seq_lengths"), max_len); });
}

Subject make_pattern_mask(Request& r, const char* option, Tensor (*build)(int64_t, int64_t, Device)) {
  return mask_of(
      [n = r.call.integer("seq_len"), size = r.call.integer(option), build](const Tensors&) { return build(n, size, Device::cpu()); });
}

Subject make_combined_mask(Request&) {
  return mask_of([](const Tensors& inputs) {
    std::vector<Tensor> masks;
    for (size_t i = 0; i < inputs.size(); ++i) masks.push_back(need(inputs, "mask" + std::to_string(i)));
    return combine_masks(masks);
  });
}

Subject make_expanded_mask(Request& r) {
  return mask_of([batch = r.call.integer("batch_size"), heads = r.call.integer("num_heads"),
                  n = r.call.integer("seq_len")](const Tensors& inputs) { return expand_for_heads(get(inputs, "mask"), batch, heads, n); });
}

}  // namespace

void add_attentions(Adapters& adapters) {
  const auto add = [&](const std::string& name, Adapter make) { adapters["attentions/" + name] = std::move(make); };
  add("VanillaSelfAttention", make_vanilla);
  add("MultiHeadSelfAttention", make_multi_head);
  add("LocalSelfAttention", make_local);

  add("scaled_dot_product_attention", make_sdpa);
  add("apply_rope", make_rope);
  add("reshape_for_attention", make_split);
  add("reshape_from_attention", make_merge);

  add("create_causal_mask", make_causal_mask);
  add("create_padding_mask", make_padding_mask);
  add("create_local_mask", [](Request& r) { return make_pattern_mask(r, "window_size", local_mask); });
  add("create_dilated_mask", [](Request& r) { return make_pattern_mask(r, "dilation_rate", dilated_mask); });
  add("create_block_mask", [](Request& r) { return make_pattern_mask(r, "block_size", block_mask); });
  add("combine_masks", make_combined_mask);
  add("expand_mask_for_heads", make_expanded_mask);
}

}  // namespace weft::golden
