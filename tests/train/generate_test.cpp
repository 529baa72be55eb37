#include "weft/train/generate.h"

#include <cmath>
#include <map>

#include "testing.h"
#include "weft/nn/module.h"

using namespace weft;
using testing::error_of;
using testing::has;

namespace {

using Rows = std::vector<std::vector<int64_t>>;

constexpr int draws = 10000;

// How often each token is drawn when `uniform` runs evenly over [0, 1).
std::vector<double> shares(const std::vector<float>& logits, const SamplingOptions& options) {
  std::vector<double> share(logits.size());
  for (int i = 0; i < draws; ++i) {
    share[static_cast<size_t>(sample_token(logits.data(), static_cast<int64_t>(logits.size()), options, (i + 0.5) / draws))] += 1.0 / draws;
  }
  return share;
}

void check_shares(const std::vector<float>& logits, const SamplingOptions& options, const std::vector<double>& expected) {
  const std::vector<double> found = shares(logits, options);
  for (size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(std::fabs(found[i] - expected[i]) <= 1.0 / draws);  // an interval holds its share of an even grid to within one point
  }
}

const std::vector<float> known = {std::log(0.15F), std::log(0.5F), std::log(0.05F), std::log(0.3F)};

// A model that counts: after t comes (t + 1) mod V, or any token with equal probability when `flat`. Remembers what it was fed.
class Counting : public LanguageModelBody {
 public:
  explicit Counting(int64_t vocab_size, bool flat = false) : vocab_size_(vocab_size), flat_(flat) {}
  struct State : DecodeState {
    int64_t seen = 0;
    int64_t length() const override { return seen; }
  };
  Tensor logits(const Tensor&) override { return {}; }
  std::unique_ptr<DecodeState> start(int64_t, const Tensor& lengths) override {
    if (lengths.defined()) started_with = lengths.to_vector<int64_t>();
    return std::make_unique<State>();
  }
  Tensor next(const Tensor& tokens, DecodeState& state) override {
    CHECK(!grad_enabled());
    static_cast<State&>(state).seen += tokens.size(1);
    fed.push_back(tokens.to_vector<int64_t>());
    std::vector<float> values(static_cast<size_t>(tokens.size(0) * vocab_size_), 0);
    for (int64_t b = 0; b < tokens.size(0); ++b) {
      const int64_t last = fed.back()[static_cast<size_t>((b + 1) * tokens.size(1) - 1)];
      if (!flat_) values[static_cast<size_t>(b * vocab_size_ + (last + 1) % vocab_size_)] = 9;
    }
    return from_vector(values, {tokens.size(0), vocab_size_});
  }
  std::vector<NamedTensor> tensors() override { return {}; }
  void set_training(bool on) override { training = on; }

  Rows fed;
  std::vector<int64_t> started_with;
  bool training = true;

 private:
  int64_t vocab_size_;
  bool flat_;
};

LanguageModel model_of(std::shared_ptr<Counting> body, int64_t vocab_size, int64_t context) {
  return LanguageModel("counting", {.vocab_size = vocab_size, .context = context}, std::move(body));
}

const GenerateOptions greedy = {.tokens = 5, .sampling = {.temperature = 0}};

}  // namespace

TEST_CASE("sample_token: the distribution, its temperature and its filters") {
  check_shares(known, {}, {0.15, 0.5, 0.05, 0.3});
  check_shares(known, {.temperature = 0}, {0, 1, 0, 0});
  const double r = std::sqrt(0.15) + std::sqrt(0.5) + std::sqrt(0.05) + std::sqrt(0.3);
  check_shares(known, {.temperature = 2}, {std::sqrt(0.15) / r, std::sqrt(0.5) / r, std::sqrt(0.05) / r, std::sqrt(0.3) / r});
  check_shares(known, {.top_k = 2}, {0, 0.625, 0, 0.375});
  check_shares(known, {.top_k = 1}, {0, 1, 0, 0});
  check_shares(known, {.top_k = 9}, {0.15, 0.5, 0.05, 0.3});
  check_shares(known, {.top_p = 0.7}, {0, 0.625, 0, 0.375});
  check_shares(known, {.top_p = 0.9}, {0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95});
  check_shares(known, {.top_p = 0.001}, {0, 1, 0, 0});
  check_shares(known, {.min_p = 0.2}, {0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95});
  check_shares(known, {.min_p = 1}, {0, 1, 0, 0});
  check_shares(known, {.top_k = 3, .top_p = 0.8}, {0, 0.625, 0, 0.375});  // of the 0.95 that top_k leaves, 0.8 is more than 0.5
  check_shares({0, 0, 0, 0}, {.top_k = 2}, {0.5, 0.5, 0, 0});             // of equals the first are kept
}

TEST_CASE("sample_token: huge, masked and equal logits") {
  check_shares({1e30F, 1e30F, -1e30F}, {}, {0.5, 0.5, 0});
  check_shares({-INFINITY, 2, -INFINITY}, {}, {0, 1, 0});
  check_shares({3, 3, 3}, {.temperature = 0}, {1, 0, 0});
  CHECK(sample_token(known.data(), 4, {}, std::nextafter(1.0, 0.0)) == 3);
  const std::vector<float> none = {-INFINITY, -INFINITY};
  CHECK(has(error_of([&] { sample_token(none.data(), 2, {}, 0.5); }), "no finite value to choose from"));
  const std::vector<float> nan = {0, NAN};
  CHECK(has(error_of([&] { sample_token(nan.data(), 2, {}, 0.5); }), "NaN"));
}

TEST_CASE("generate: greedy, and a stop token") {
  LanguageModel model = model_of(std::make_shared<Counting>(7), 7, 100);
  CHECK(generate(model, {{1, 2}}, greedy) == Rows{{3, 4, 5, 6, 0}});
  GenerateOptions options = greedy;
  options.stop_token = 5;
  CHECK(generate(model, {{1, 2}}, options) == Rows{{3, 4}});
  CHECK(generate(model, {{1}, {4}, {3}}, options) == Rows{{2, 3, 4}, {}, {4}});
  options.tokens = 0;
  CHECK(generate(model, {{1}}, options) == Rows{{}});
}

TEST_CASE("generate: tokens stream as they come, and the caller can stop") {
  LanguageModel model = model_of(std::make_shared<Counting>(7), 7, 100);
  Rows streamed;
  GenerateOptions options = greedy;
  options.stop_token = 6;
  options.on_tokens = [&](const std::vector<int64_t>& tokens) {
    streamed.push_back(tokens);
    return true;
  };
  CHECK(generate(model, {{2}, {4}}, options) == Rows{{3, 4, 5}, {5}});
  CHECK(streamed == Rows{{3, 5}, {4, -1}, {5, -1}, {-1, -1}});
  options.on_tokens = [&](const std::vector<int64_t>& tokens) { return tokens[0] != 4; };
  CHECK(generate(model, {{2}}, options) == Rows{{3, 4}});
}

TEST_CASE("generate: prompts of unequal length are padded in front") {
  auto body = std::make_shared<Counting>(9);
  LanguageModel model = model_of(body, 9, 100);
  CHECK(generate(model, {{1, 2, 3}, {5}}, {.tokens = 2, .sampling = {.temperature = 0}}) == Rows{{4, 5}, {6, 7}});
  CHECK(body->started_with == std::vector<int64_t>{3, 1});
  CHECK(body->fed == Rows{{1, 2, 3, 0, 0, 5}, {4, 6}});
  CHECK(!body->training);
}

TEST_CASE("generate: beyond the context it goes on from the last half of it") {
  auto body = std::make_shared<Counting>(10);
  LanguageModel model = model_of(body, 10, 4);
  GenerateOptions options = greedy;
  options.tokens = 6;
  CHECK(generate(model, {{0, 1, 2}}, options) == Rows{{3, 4, 5, 6, 7, 8}});
  // The token that does not fit any more is fed with the one before it.
  CHECK(body->fed == Rows{{0, 1, 2}, {3}, {3, 4}, {5}, {6}, {6, 7}});
  body->fed.clear();
  CHECK(generate(model, {{0, 1, 2, 3, 4, 5, 6}}, {.tokens = 1, .sampling = {.temperature = 0}}) == Rows{{7}});
  CHECK(body->fed == Rows{{3, 4, 5, 6}});
}

TEST_CASE("generate: repeats from the seed, and rows draw numbers of their own") {
  LanguageModel model = model_of(std::make_shared<Counting>(1000, true), 1000, 100);
  const auto draw = [&](uint64_t seed) {
    Generator generator(seed);
    return generate(model, {{0}, {0}}, {.tokens = 8, .generator = &generator});
  };
  const Rows a = draw(1);
  CHECK(a == draw(1));
  CHECK(a != draw(2));
  CHECK(a[0] != a[1]);
  // Row 0 is the same alone.
  Generator generator(1);
  CHECK(generate(model, {{0}}, {.tokens = 8, .generator = &generator})[0] == a[0]);
}

TEST_CASE("generate: a transformer gives the tokens that whole forwards give") {
  manual_seed(5);
  LanguageModel model = make_language_model("transformer", {.vocab_size = 11, .dim = 24, .depth = 2, .heads = 3, .context = 12});
  for (Tensor& p : parameters(model)) p.copy_from(randn(p.shape(), 0, 0.4));
  const Rows prompts = {{1, 2, 3, 4}, {7}};
  const Rows results = generate(model, prompts, {.tokens = 6, .sampling = {.temperature = 0}});
  const NoGrad no_grad;
  for (size_t b = 0; b < prompts.size(); ++b) {
    std::vector<int64_t> ids = prompts[b];
    for (int64_t token : results[b]) {
      const auto n = static_cast<int64_t>(ids.size());
      const Tensor last = slice(model(from_vector(ids, {1, n})), 1, n - 1, n);
      CHECK(argmax(last).to_vector<int64_t>()[0] == token);
      ids.push_back(token);
    }
  }
  CHECK(generate(model, prompts, {.tokens = 30})[0].size() == 30);  // beyond the context
}

TEST_CASE("generate: errors say what is wrong") {
  LanguageModel model = model_of(std::make_shared<Counting>(7), 7, 100);
  const auto error_with = [&](const Rows& prompts, const GenerateOptions& options) {
    return error_of([&] { generate(model, prompts, options); });
  };
  CHECK(has(error_with({}, {}), "expected at least one prompt"));
  CHECK(has(error_with({{1}, {}}, {}), "a prompt needs at least one token"));
  CHECK(has(error_with({{1, 7}}, {}), "token 7 of the prompt is outside the vocabulary of 7"));
  CHECK(has(error_with({{-1}}, {}), "token -1 of the prompt is outside the vocabulary of 7"));
  CHECK(has(error_with({{1}}, {.tokens = -1}), "the number of tokens must not be negative"));
  CHECK(has(error_with({{1}}, {.sampling = {.temperature = -0.5}}), "the temperature must be 0 (greedy) or positive, got -0.5"));
  CHECK(has(error_with({{1}}, {.sampling = {.temperature = NAN}}), "the temperature must be 0 (greedy) or positive"));
  CHECK(has(error_with({{1}}, {.sampling = {.top_k = -1}}), "top_k must be 0 (off) or positive"));
  CHECK(has(error_with({{1}}, {.sampling = {.top_p = 0}}), "top_p must be in (0, 1]"));
  CHECK(has(error_with({{1}}, {.sampling = {.min_p = 1.5}}), "min_p must be in [0, 1]"));
}
