#include "weft/attention/local.h"

#include "compare_attention.h"
#include "weft/attention/dot_product.h"

using namespace weft;
using namespace weft::testing;

namespace {

Attend fused(int64_t window) {
  return [=](const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) {
    return local(q, k, v, {.window = window}, options);
  };
}
Attend reference(int64_t window) {
  return [=](const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) {
    return local_reference(q, k, v, {.window = window}, options);
  };
}

}  // namespace

TEST_CASE("local equals its reference over sizes, windows and options") {
  uint64_t seed = 0;
  for (int64_t n : is_slow() ? std::vector<int64_t>{1, 7, 33, 70} : std::vector<int64_t>{1, 7, 33, 129, 200}) {
    for (int64_t m : {n, n + 13, std::max<int64_t>(1, n - 20)}) {
      for (int64_t window : {1, 2, 5, 40, 128, 500}) {
        ++seed;
        CAPTURE(window);
        AttentionCase c{.N = n, .M = m, .D = seed % 2 == 0 ? 5 : 16, .Dv = 9, .seed = seed};
        c.Hkv = seed % 3 == 0 ? 1 : 4;
        c.options.causal = seed % 4 == 0;
        c.options.layout = seed % 5 < 2 ? AttentionLayout::bnhd : AttentionLayout::bhnd;
        if (seed % 3 == 1) c.options.mask = random_mask({2, 1, n, m}, 0.7, seed);
        if (seed % 5 == 0) c.options.bias = normal({n, m}, seed);
        if (seed % 5 == 1) c.options.dropout = 0.3, c.options.key = {.seed = seed};
        if (seed % 7 == 0) c.options.key_lengths = from_vector<int64_t>({m / 2, m}, {2});
        c.options.return_weights = seed % 2 == 0;
        check_against_reference(fused(window), reference(window), c);
      }
    }
  }
}

TEST_CASE("local: gradients against differences") {
  const Tensor mask = random_mask({2, 1, 9, 9}, 0.5, 4);
  gradcheck(
      [&](const std::vector<Tensor>& in) {
        const Attended out = local(in[0], in[1], in[2], {.window = 4},
                                   {.mask = mask, .bias = in[3], .dropout = 0.2, .key = {.seed = 5}, .return_weights = true});
        return std::vector<Tensor>{out.y, out.weights};
      },
      {normal({2, 9, 4, 3}, 1), normal({2, 9, 2, 3}, 2), normal({2, 9, 2, 3}, 3), normal({4, 9, 9}, 6)},
      {.names = {"q", "k", "v", "bias"}});
}

TEST_CASE("local: a window that covers everything is dot_product, to the bit") {
  AttentionCase c{.N = 70, .M = 70};
  const Attend dense = [](const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) {
    return dot_product(q, k, v, options);
  };
  CHECK(identical(run_attention(fused(140), c), run_attention(dense, c)));
  c.options.causal = true;
  CHECK(identical(run_attention(fused(1000), c), run_attention(dense, c)));
}

TEST_CASE("local: compact weights hold the window, and their gradient is the dense one's") {
  for (const bool causal : {false, true}) {
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{70, 70}, {70, 75}, {75, 70}}) {
      const int64_t half = 3, width = causal ? half + 1 : 2 * half + 1;
      const Tensor q = parameter(normal({2, n, 4, 5}, 1)), k = parameter(normal({2, m, 2, 5}, 2)), v = normal({2, m, 2, 5}, 3);
      AttendOptions options{.causal = causal, .dropout = 0.2, .key = {.seed = 8}, .return_weights = true};
      const Tensor dense = local(q, k, v, {.window = 6}, options).weights;
      options.compact_weights = true;
      const Tensor compact = local(q, k, v, {.window = 6}, options).weights;
      REQUIRE(compact.shape() == Shape({2, 4, n, width}));
      // Dense cotangents are the compact ones in their places.
      const Tensor cotangent = normal(compact.shape(), 4);
      Tensor spread = zeros_like(dense);
      const std::vector<double> values = compact.to_vector<double>(), all = dense.to_vector<double>(),
                                cotangents = cotangent.to_vector<double>();
      bool same = true;
      for (int64_t row = 0; row < 2 * 4 * n; ++row) {
        for (int64_t t = 0; t < width; ++t) {
          const int64_t j = row % n + m - n - half + t;
          const double entry = values[static_cast<size_t>(row * width + t)];
          if (j < 0 || j >= m) {
            same = same && entry == 0;
          } else {
            same = same && entry == all[static_cast<size_t>(row * m + j)];
            on_host<double>(spread)[row * m + j] = cotangents[static_cast<size_t>(row * width + t)];
          }
        }
      }
      CHECK(same);
      const Grads from_compact = gradients(compact, {q, k}, cotangent), from_dense = gradients(dense, {q, k}, spread);
      CHECK(distance(from_compact[0], from_dense[0]) < 1e-14);
      CHECK(distance(from_compact[1], from_dense[1]) < 1e-14);
    }
  }
  const LocalSelfAttention module({.dim = 16, .heads = 4, .dropout = 0}, {.window = 4});
  const Tensor x = randn({2, 11, 16});
  CHECK(module(x, {.weights = Weights::compact}).weights.shape() == Shape({2, 4, 11, 5}));
}

TEST_CASE("local: time and memory grow with N, not with N^2") {
  const auto extra = [](int64_t n) {
    const Tensor q = parameter(zeros({1, n, 2, 8})), k = parameter(zeros({1, n, 2, 8})), v = parameter(zeros({1, n, 2, 8}));
    const int64_t before = bytes_in_use();
    reset_peak_bytes();
    {
      const Tensor y = local(q, k, v, {.window = 64}).y;
      gradients(y, {q, k, v}, y);
    }
    CHECK(bytes_in_use() == before);
    return static_cast<double>(peak_bytes() - before);
  };
  const int64_t n = is_slow() ? 4096 : 1 << 17;  // a quadratic pass over the long one would be 16,384 times the work of n = 1024
  const double small = extra(n / 4), large = extra(n);
  CHECK(large < 4.2 * small);
}

TEST_CASE("local: errors") {
  const Tensor q = zeros({2, 5, 6, 4}), k = zeros({2, 7, 3, 4});
  CHECK(has(error_of([&] { local(q, k, k, {.window = 0}); }), "local: the window must be at least 1, got 0"));
  CHECK(has(error_of([&] { local(q, k, zeros({2, 7, 2, 4}), {.window = 3}); }), "local: k and v need the same keys and heads"));
  CHECK(has(error_of([&] { make_mechanism("local:window=-2", {}); }), "the window must be at least 1"));
}
