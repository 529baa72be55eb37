#include "weft/train/models/transformer.h"

#include <cmath>
#include <map>
#include <thread>

#include "nn/module_check.h"
#include "testing.h"
#include "weft/train/adam.h"

using namespace weft;
using testing::close;
using testing::error_of;
using testing::has;

namespace {

const TransformerOptions tiny = {.vocab_size = 7, .dim = 12, .depth = 2, .heads = 3, .context = 9};

constexpr Positions all_positions[] = {Positions::learned, Positions::sinusoidal, Positions::rotary, Positions::alibi, Positions::none};

// The generic test model: random float64 weights (a fresh model's are too small to tell a wrong sign from a right one).
template <class M>
M randomized(M model) {
  convert(model, DType::float64);
  for (Tensor& p : parameters(model)) p.copy_from(randn(p.shape(), 0, 0.5, {.dtype = DType::float64}));
  set_training(model, false);
  return model;
}

Tensor ids_of(const std::vector<int64_t>& ids) { return from_vector<int64_t>(ids, {1, static_cast<int64_t>(ids.size())}); }

// Row b, position n of [B, N, V].
Tensor at(const Tensor& logits, int64_t b, int64_t n) { return select(slice(detach(logits), 0, b, b + 1), 1, n); }

}  // namespace

TEST_CASE("transformer: names and shapes of the GPT, as the table in the header has them") {
  TransformerLM model(tiny);
  std::map<std::string, Shape> expected = {
      {"tokens.weight", {7, 12}}, {"positions.weight", {9, 12}}, {"norm.weight", {12}}, {"norm.bias", {12}}, {"output.weight", {7, 12}}};
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    expected[layer + "attention_norm.weight"] = expected[layer + "attention_norm.bias"] = {12};
    expected[layer + "attention.to_qkv.weight"] = {36, 12};
    expected[layer + "attention.to_out.weight"] = {12, 12};
    expected[layer + "feed_forward_norm.weight"] = expected[layer + "feed_forward_norm.bias"] = {12};
    expected[layer + "feed_forward.up.weight"] = {48, 12};
    expected[layer + "feed_forward.up.bias"] = {48};
    expected[layer + "feed_forward.down.weight"] = {12, 48};
    expected[layer + "feed_forward.down.bias"] = {12};
  }
  std::map<std::string, Shape> found;
  for (const auto& [name, tensor] : state_dict(model)) found[name] = tensor.shape();
  CHECK(found == expected);
  CHECK(model(zeros({2, 5}, {.dtype = DType::int64})).shape() == Shape{2, 5, 7});
  CHECK(model(zeros({2, 0}, {.dtype = DType::int64})).shape() == Shape{2, 0, 7});
}

TEST_CASE("transformer: options change what is there") {
  TransformerOptions options = tiny;
  options.kv_heads = 1;
  options.positions = Positions::rotary;
  options.norm = NormKind::scale;
  options.feed_forward = "swiglu";
  options.mult = 2;
  options.tied = true;
  options.qkv_bias = true;
  options.out_bias = true;
  options.feed_forward_bias = false;
  TransformerLM model(options);
  std::map<std::string, Shape> found;
  for (const auto& [name, tensor] : state_dict(model)) found[name] = tensor.shape();
  CHECK(found.at("layers.1.attention.to_qkv.weight") == Shape{12 + 4 + 4, 12});
  CHECK(found.at("layers.1.attention.to_qkv.bias") == Shape{20});
  CHECK(found.at("layers.1.attention.to_out.bias") == Shape{12});
  CHECK(found.at("layers.1.feed_forward.up.weight") == Shape{2 * 24, 12});
  CHECK(found.at("norm.weight") == Shape{1});
  for (const char* absent : {"output.weight", "positions.weight", "norm.bias", "layers.0.feed_forward.up.bias"})
    CHECK(!found.contains(absent));
  CHECK(model(zeros({1, 4}, {.dtype = DType::int64})).shape() == Shape{1, 4, 7});
}

TEST_CASE("transformer: fresh weights have the stated spread") {
  manual_seed(3);
  TransformerLM model({.vocab_size = 64, .dim = 64, .depth = 8, .heads = 4, .context = 32});
  for (const auto& [name, tensor] : state_dict(model)) {
    if (tensor.rank() < 2) continue;
    CAPTURE(name);
    const bool ends_branch = name.ends_with("to_out.weight") || name.ends_with("down.weight");
    const double std = std::sqrt(mean(square(tensor)).item());
    CHECK(std == doctest::Approx(ends_branch ? 0.02 / 4 : 0.02).epsilon(0.06));
  }
}

TEST_CASE("transformer: gradients of every weight") {
  manual_seed(1);
  const Tensor ids = from_vector<int64_t>({1, 4, 0, 4, 2, 2}, {2, 3});
  const auto loss = [](const TransformerLM& model, const std::vector<Tensor>& in) { return model(in[0]); };
  TransformerOptions options = {.vocab_size = 5, .dim = 4, .depth = 2, .heads = 2, .context = 3, .mult = 2};
  for (Positions positions : all_positions) {
    CAPTURE(static_cast<int>(positions));
    options.positions = positions;
    testing::check_module(TransformerLM(options), {ids}, loss);
  }
  options.kv_heads = 1;
  options.norm = NormKind::rms;
  options.feed_forward = "geglu";
  options.tied = true;
  testing::check_module(TransformerLM(options), {ids}, loss);
  options.norm = NormKind::scale;
  options.feed_forward = "relu_squared";
  options.qkv_bias = options.out_bias = true;
  testing::check_module(TransformerLM(options), {ids}, loss);
}

TEST_CASE("transformer: a position sees the tokens up to it and nothing later") {
  manual_seed(2);
  for (Positions positions : all_positions) {
    TransformerOptions options = tiny;
    options.positions = positions;
    const auto model = randomized(TransformerLM(options));
    const Tensor a = model(ids_of({3, 1, 4, 1, 5})), b = model(ids_of({3, 1, 4, 2, 6}));
    CHECK(close(slice(a, 1, 0, 3), slice(b, 1, 0, 3), 1e-13));
    CHECK(!(std::fabs((slice(a, 1, 3, 4) - slice(b, 1, 3, 4)).to_vector<double>()[0]) < 1e-6));
  }
}

TEST_CASE("transformer: generation step by step gives the logits of one forward") {
  manual_seed(4);
  for (const char* attention : {"dot_product", "local:window=4"}) {
    for (Positions positions : all_positions) {
      CAPTURE(static_cast<int>(positions));
      TransformerOptions options = tiny;
      options.attention = attention;
      options.positions = positions;
      options.kv_heads = 1;
      const Tensor ids = from_vector<int64_t>({0, 1, 2, 3, 4, 5, 6, 0, 6, 5, 4, 3, 2, 1, 0, 6}, {2, 8});
      const auto model = randomized(TransformerLM(options));
      const Tensor whole = model(ids);
      TransformerState state = model.start(2);
      const Tensor after_prompt = model.next(slice(ids, 1, 0, 3), state);
      CHECK(close(after_prompt, select(detach(whole), 1, 2), 1e-10));
      CHECK(close(model.next(slice(ids, 1, 3, 5), state), select(detach(whole), 1, 4), 1e-10));
      for (int64_t n = 5; n < 8; ++n) {
        CHECK(close(model.next(slice(ids, 1, n, n + 1), state), select(detach(whole), 1, n), 1e-10));
        CHECK(state.length() == n + 1);
      }
    }
  }
}

TEST_CASE("transformer: generation in float32 gives the logits of one forward") {
  manual_seed(5);
  TransformerLM model({.vocab_size = 65, .dim = 48, .depth = 3, .heads = 4, .context = 33});
  set_training(model, false);
  const Tensor ids = randint(65, {1, 33});
  const Tensor whole = detach(model(ids));
  TransformerState state = model.start(1);
  for (int64_t n = 0; n < 33; ++n) CHECK(close(model.next(slice(ids, 1, n, n + 1), state), at(whole, 0, n), 1e-5));
}

TEST_CASE("transformer: prompts of unequal length give what each gives alone") {
  manual_seed(6);
  for (const char* attention : {"dot_product", "local:window=4"}) {
    for (Positions positions : all_positions) {
      CAPTURE(static_cast<int>(positions));
      TransformerOptions options = tiny;
      options.attention = attention;
      options.positions = positions;
      const auto model = randomized(TransformerLM(options));
      const std::vector<std::vector<int64_t>> rows = {{1, 2, 3, 4, 5}, {6}, {2, 4, 6}};
      const Tensor padded = from_vector<int64_t>({1, 2, 3, 4, 5, 3, 3, 3, 3, 6, 0, 0, 2, 4, 6}, {3, 5});
      TransformerState state = model.start(3, from_vector<int64_t>({5, 1, 3}, {3}));
      const Tensor first = model.next(padded, state);
      const Tensor second = model.next(from_vector<int64_t>({0, 1, 2}, {3, 1}), state);
      const Tensor third = model.next(from_vector<int64_t>({5, 5, 4}, {3, 1}), state);
      for (int64_t b = 0; b < 3; ++b) {
        std::vector<int64_t> ids = rows[static_cast<size_t>(b)];
        const auto n = static_cast<int64_t>(ids.size());
        ids.push_back(b);
        ids.push_back(b == 2 ? 4 : 5);
        const Tensor alone = model(ids_of(ids));
        CHECK(close(slice(first, 0, b, b + 1), at(alone, 0, n - 1), 1e-10));
        CHECK(close(slice(second, 0, b, b + 1), at(alone, 0, n), 1e-10));
        CHECK(close(slice(third, 0, b, b + 1), at(alone, 0, n + 1), 1e-10));
      }
    }
  }
}

TEST_CASE("transformer: positions without a table go beyond the context") {
  manual_seed(7);
  const Tensor ids = randint(7, {1, 14});
  for (Positions positions : {Positions::sinusoidal, Positions::rotary, Positions::alibi, Positions::none}) {
    TransformerOptions options = tiny;
    options.positions = positions;
    const auto model = randomized(TransformerLM(options));
    CHECK(model(ids).shape() == Shape{1, 14, 7});
    TransformerState state = model.start(1);
    Tensor last;
    for (int64_t n = 0; n < 14; ++n) last = model.next(slice(ids, 1, n, n + 1), state);
    CHECK(close(last, at(model(ids), 0, 13), 1e-10));
  }
}

TEST_CASE("transformer: every mechanism by name builds and learns one batch by heart") {
  for (const std::string& mechanism : mechanism_names()) {
    CAPTURE(mechanism);
    manual_seed(8);
    LanguageModel model =
        make_language_model("transformer", {.vocab_size = 11, .dim = 32, .depth = 2, .heads = 4, .context = 16, .attention = mechanism});
    AdamW optimizer(parameters(model), {.lr = 1e-2, .weight_decay = 0});
    const Tensor ids = randint(11, {2, 17});
    const Tensor inputs = slice(ids, 1, 0, 16), targets = slice(ids, 1, 1, 17);
    double first = 0, loss = 0;
    for (int step = 0; step < 60; ++step) {
      const Tensor y = cross_entropy(model(inputs), targets);
      loss = y.item();
      if (step == 0) first = loss;
      backward(y);
      optimizer.step();
      optimizer.zero_grad();
    }
    CHECK(first == doctest::Approx(std::log(11.0)).epsilon(0.05));
    CHECK(loss < 0.05);
  }
}

TEST_CASE("transformer: dropout is drawn in training only, and repeats from the seed") {
  TransformerOptions options = tiny;
  options.dropout = 0.3;
  manual_seed(9);
  TransformerLM model(options);
  const Tensor ids = ids_of({1, 2, 3, 4});
  manual_seed(10);
  const Tensor a = model(ids), b = model(ids);
  manual_seed(10);
  const Tensor again = model(ids);
  CHECK(close(a, again, 0));
  CHECK(max(abs(detach(a) - detach(b))).item() > 1e-4);
  set_training(model, false);
  CHECK(close(model(ids), model(ids), 0));
  CHECK(max(abs(detach(a) - detach(model(ids)))).item() > 1e-4);
}

TEST_CASE("transformer encoder: padding changes nothing, and every position sees all others") {
  manual_seed(11);
  for (Positions positions : all_positions) {
    CAPTURE(static_cast<int>(positions));
    TransformerOptions options = tiny;
    options.positions = positions;
    const auto encoder = randomized(TransformerEncoder(options));
    const Tensor padded = from_vector<int64_t>({1, 2, 3, 0, 0, 4, 5, 6, 1, 2}, {2, 5});
    const Tensor other = from_vector<int64_t>({1, 2, 3, 6, 5, 4, 5, 6, 1, 2}, {2, 5});
    const Tensor lengths = from_vector<int64_t>({3, 5}, {2});
    const Tensor y = encoder(padded, lengths);
    CHECK(y.shape() == Shape{2, 5, 12});
    CHECK(close(slice(slice(y, 0, 0, 1), 1, 0, 3), slice(slice(encoder(other, lengths), 0, 0, 1), 1, 0, 3), 1e-13));
    if (positions != Positions::alibi) CHECK(close(slice(slice(y, 0, 0, 1), 1, 0, 3), encoder(ids_of({1, 2, 3})), 1e-12));
    CHECK(max(abs(slice(encoder(ids_of({1, 2, 3})), 1, 0, 1) - slice(encoder(ids_of({1, 2, 4})), 1, 0, 1))).item() > 1e-6);
  }
}

TEST_CASE("transformer encoder: gradients with padding") {
  manual_seed(12);
  const Tensor ids = from_vector<int64_t>({1, 2, 3, 4, 0, 1}, {2, 3}), lengths = from_vector<int64_t>({3, 1}, {2});
  testing::check_module(
      TransformerEncoder({.vocab_size = 5, .dim = 4, .depth = 1, .heads = 2, .context = 3, .mult = 2}), {ids, lengths},
      [](const TransformerEncoder& encoder, const std::vector<Tensor>& in) { return slice(encoder(in[0], in[1]), 1, 0, 1); });
}

TEST_CASE("transformer: by name, with options") {
  LanguageModel model = make_language_model("transformer:positions=rotary,norm=rms,feed_forward=swiglu,kv_heads=2,tied=true,mult=2.5",
                                            {.vocab_size = 5, .dim = 16, .depth = 1, .heads = 4, .context = 8});
  std::map<std::string, Shape> found;
  for (const auto& [name, tensor] : state_dict(model)) found[name] = tensor.shape();
  CHECK(found.at("layers.0.attention.to_qkv.weight") == Shape{32, 16});
  CHECK(found.at("layers.0.feed_forward.up.weight") == Shape{80, 16});
  CHECK(found.size() == 10);
  CHECK(model(zeros({1, 8}, {.dtype = DType::int64})).shape() == Shape{1, 8, 5});
}

TEST_CASE("transformer: one model evaluates in several threads at once") {
  manual_seed(13);
  for (Positions positions : all_positions) {
    CAPTURE(static_cast<int>(positions));
    TransformerOptions options = tiny;
    options.positions = positions;
    const auto model = randomized(TransformerLM(options));
    std::vector<Tensor> inputs, expected, found(6);
    for (int64_t n = 3; n < 9; ++n) inputs.push_back(randint(7, {1, n}));
    for (const Tensor& ids : inputs) expected.push_back(detach(model(ids)));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < inputs.size(); ++i) {
      threads.emplace_back([&, i] {
        const NoGrad no_grad;
        for (int repeat = 0; repeat < 5; ++repeat) found[i] = model(inputs[i]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < inputs.size(); ++i) CHECK(close(found[i], expected[i], 1e-13));
  }
}

TEST_CASE("language models: an empty handle, and a state of another kind, are errors that say what to do") {
  LanguageModel empty;
  CHECK(parameters(empty).empty());
  set_training(empty, false);
  CHECK(has(error_of([&] { empty(zeros({1, 2}, {.dtype = DType::int64})); }), "LanguageModel: empty; build it with make_language_model"));
  CHECK(has(error_of([&] { empty.start(1); }), "LanguageModel: empty"));

  struct OtherState : DecodeState {
    int64_t length() const override { return 0; }
  } other;
  const LanguageModel model = make_language_model("transformer", {.vocab_size = 5, .dim = 8, .depth = 1, .heads = 2, .context = 4});
  CHECK(has(error_of([&] {
              model.next(zeros({1, 1}, {.dtype = DType::int64}), other);
            }),
            "the state was started by a model of another kind"));
}

TEST_CASE("language models: options that are chosen by name") {
  const auto kind_of = [](const std::string& text) {
    Spec spec("model", text);
    return chosen(spec, "norm", NormKind::rms, norm_kinds());
  };
  CHECK(kind_of("m") == NormKind::rms);
  for (const auto& [kind, name] : norm_kinds()) CHECK(kind_of("m:norm=" + name) == kind);
  CHECK(has(error_of([&] { kind_of("m:norm=lyer"); }), "m: norm cannot be \"lyer\"; did you mean \"layer\"? known: layer, rms, scale"));
  CHECK(position_kinds().size() == std::size(all_positions));
}

TEST_CASE("transformer: errors say what to do") {
  const LanguageModelSettings settings = {.vocab_size = 5, .dim = 8, .depth = 1, .heads = 2, .context = 4};
  const auto error_with = [&](const std::string& spec, LanguageModelSettings with) {
    return error_of([&] { make_language_model(spec, with); });
  };
  CHECK(has(error_with("transfomer", settings), "did you mean \"transformer\"?"));
  CHECK(has(error_with("transformer:position=rotary", settings), "unknown option \"position\"; did you mean \"positions\"?"));
  CHECK(has(error_with("transformer:norm=batch", settings), "norm cannot be \"batch\""));
  CHECK(has(error_with("transformer:feed_forward=gegelu", settings), "unknown kind \"gegelu\"; did you mean \"geglu\"?"));
  CHECK(has(error_with("transformer:mult=0", settings), "mult must be positive, got 0"));
  CHECK(has(error_with("transformer:kv_heads=3", settings), "heads (2) must be divisible by kv_heads (3)"));
  LanguageModelSettings wrong = settings;
  wrong.heads = 3;
  CHECK(has(error_with("transformer", wrong), "transformer: dim (8) must be divisible by heads (3)"));
  wrong = settings;
  wrong.attention = "locl:window=4";
  CHECK(has(error_with("transformer", wrong), "attention: unknown name \"locl\"; did you mean \"local\"?"));
  wrong = settings;
  wrong.dim = 6;
  CHECK(has(error_with("transformer:positions=rotary", wrong), "the width of a head is odd, 3"));
  wrong.dim = 7;
  wrong.heads = 7;
  CHECK(has(error_with("transformer:positions=sinusoidal", wrong), "sinusoidal positions need an even dim, got 7"));
  wrong = settings;
  wrong.dropout = 1;
  CHECK(has(error_with("transformer", wrong), "dropout must be in [0, 1), got 1"));
  wrong = settings;
  wrong.context = 0;
  CHECK(has(error_with("transformer", wrong), "must be at least 1"));

  LanguageModel model = make_language_model("transformer", settings);
  CHECK(has(error_of([&] {
              model(zeros({1, 5}, {.dtype = DType::int64}));
            }),
            "5 tokens are more than the context of 4 that the model has learned positions for"));
  CHECK(has(error_of([&] { model(zeros({4}, {.dtype = DType::int64})); }), "expected token ids int64 [B, N]"));
  CHECK(has(error_of([&] { model(zeros({1, 4})); }), "expected token ids int64 [B, N]"));
  CHECK(has(error_of([&] { model.start(2, from_vector<int64_t>({1, 2, 3}, {3})); }), "expected lengths int64 [2]"));
  CHECK(has(error_of([&] { model.start(2, from_vector<int64_t>({1, 0}, {2})); }), "every prompt needs at least one token"));
  auto unequal = model.start(2, from_vector<int64_t>({3, 1}, {2}));
  CHECK(has(error_of([&] {
              model.next(zeros({2, 2}, {.dtype = DType::int64}), *unequal);
            }),
            "the longest prompt has 3 tokens, as the state was told, but only 2 came"));
  auto state = model.start(2);
  CHECK(has(error_of([&] { model.next(zeros({1, 1}, {.dtype = DType::int64}), *state); }), "expected the next token ids int64 [2, n]"));
}
