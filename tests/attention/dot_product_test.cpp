#include "weft/attention/dot_product.h"

#include <hwy/targets.h>

#include <limits>

#include "compare_attention.h"

using namespace weft;
using namespace weft::testing;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

Attended fused(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) { return dot_product(q, k, v, options); }
Attended reference(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) {
  return dot_product_reference(q, k, v, options);
}

void check_case(const AttentionCase& c, double tolerance = 1e-12) { check_against_reference(fused, reference, c, tolerance); }

}  // namespace

TEST_CASE("dot_product equals its reference over a grid of sizes") {
  const std::vector<int64_t> lengths = is_slow() ? std::vector<int64_t>{1, 7, 33, 65} : std::vector<int64_t>{1, 2, 7, 33, 64, 129};
  const std::vector<int64_t> dims = is_slow() ? std::vector<int64_t>{1, 5, 80} : std::vector<int64_t>{1, 5, 16, 64, 80};
  uint64_t seed = 0;
  for (int64_t n : lengths) {
    for (int64_t m : lengths) {
      for (int64_t d : dims) {
        ++seed;
        AttentionCase c{.N = n, .M = m, .D = d, .Dv = d, .seed = seed};
        c.Hkv = seed % 3 == 0 ? 1 : seed % 3 == 1 ? 2 : 4;
        c.options.causal = seed % 2 == 0;
        c.options.layout = seed % 4 < 2 ? AttentionLayout::bnhd : AttentionLayout::bhnd;
        if (seed % 3 == 0) c.options.mask = random_mask({2, 1, n, m}, 0.6, seed);  // some rows see nothing
        if (seed % 5 == 0) c.options.bias = normal({4, n, m}, seed);
        if (seed % 5 == 1) c.options.dropout = 0.3, c.options.key = {.seed = seed, .offset = 5};
        if (seed % 7 == 0) c.options.key_lengths = from_vector<int64_t>({m / 2, m}, {2});
        c.options.return_weights = seed % 4 == 0;
        check_case(c);
      }
    }
  }
}

TEST_CASE("dot_product: many blocks of keys and rows, several chunks a head, every option at once") {
  for (const bool causal : {false, true}) {
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{150, 300}, {300, 150}, {400, 400}}) {
      AttentionCase c{.B = 2, .H = 2, .Hkv = 1, .N = n, .M = m, .D = 24, .Dv = 40};
      c.options = {.causal = causal,
                   .mask = random_mask({n, m}, 0.7, 3),
                   .bias = normal({1, 2, n, m}, 4),
                   .key_lengths = from_vector<int64_t>({m - 37, m}, {2}),
                   .scale = 0.3,
                   .dropout = 0.2,
                   .key = {.seed = 9, .offset = (uint64_t{1} << 40) + 1},
                   .return_weights = true};
      check_case(c);
      c.options.bias = normal({n, m}, 4);  // shared by batches and heads: summed in one order
      check_case(c);
    }
  }
}

TEST_CASE("dot_product: value_dim may differ, wide heads, one query") {
  check_case({.H = 2, .Hkv = 2, .N = 13, .M = 70, .D = 3, .Dv = 130});
  check_case({.H = 1, .Hkv = 1, .N = 70, .M = 13, .D = 300, .Dv = 2});
  check_case({.B = 3, .H = 8, .Hkv = 2, .N = 1, .M = 200, .D = 64, .Dv = 64});
  check_case({.B = 1, .H = 1, .Hkv = 1, .N = 100, .M = 100, .D = 257, .Dv = 257, .options = {.causal = true}});
}

TEST_CASE("dot_product: gradients against differences, with empty rows, every kind of bias, dropout and returned weights") {
  const Tensor q = normal({2, 5, 4, 3}, 1), k = normal({2, 7, 2, 3}, 2), v = normal({2, 7, 2, 6}, 3);
  Tensor mask = random_mask({2, 4, 5, 7}, 0.5, 4);
  std::fill_n(on_host<bool>(mask) + 7, 14, false);  // rows 1 and 2 of the first head see nothing
  std::vector<Shape> shapes = {{2, 4, 5, 7}, {5, 1}};
  if (!is_slow()) shapes.insert(shapes.end(), {{2, 1, 5, 7}, {4, 5, 7}, {5, 7}, {1, 7}, {7}, {2, 4, 1, 7}, {}});
  for (const Shape& shape : shapes) {
    gradcheck(
        [&](const std::vector<Tensor>& in) {
          const Attended out =
              dot_product(in[0], in[1], in[2],
                          {.mask = mask, .bias = in[3], .scale = 0.8, .dropout = 0.25, .key = {.seed = 6}, .return_weights = true});
          return std::vector<Tensor>{out.y, out.weights};
        },
        {q, k, v, normal(shape, 5)}, {.names = {"q", "k", "v", "bias"}});
  }
  gradcheck([](const std::vector<Tensor>& in) { return dot_product(in[0], in[1], in[2], {.causal = true}).y; }, {q, k, v});
  // Only the weights are used.
  gradcheck([](const std::vector<Tensor>& in) { return dot_product(in[0], in[1], in[2], {.return_weights = true}).weights; }, {q, k, v});
}

TEST_CASE("dot_product: bias of every broadcast shape has the reference's gradient") {
  for (const Shape& shape : {Shape{2, 4, 70, 90}, Shape{1, 4, 70, 90}, Shape{2, 1, 70, 90}, Shape{70, 90}, Shape{1, 1, 1, 90},
                             Shape{2, 4, 1, 90}, Shape{2, 4, 70, 1}, Shape{70, 1}, Shape{1}, Shape{}}) {
    AttentionCase c{.N = 70, .M = 90};
    c.options.bias = normal(shape, 8);
    check_case(c, 1e-11);
  }
}

TEST_CASE("dot_product: queries without a visible key give zero rows and no gradients") {
  AttentionCase c{.B = 2, .H = 2, .Hkv = 2, .N = 70, .M = 65, .D = 8, .Dv = 8};
  const auto all_zero = [](const Tensor& x) { return max(abs(x)).item() == 0; };
  SUBCASE("by a mask") { c.options.mask = zeros({1, 65}, {.dtype = DType::boolean}); }
  SUBCASE("by a bias of -infinity") { c.options.bias = full({70, 65}, -infinity, {.dtype = DType::float64}); }
  SUBCASE("by padding") { c.options.key_lengths = from_vector<int64_t>({0, 0}, {2}); }
  const AttentionResult r = run_attention(fused, c);
  CHECK(all_zero(r.y));
  CHECK(all_zero(r.dq));
  CHECK(all_zero(r.dk));
  CHECK(all_zero(r.dv));
  if (r.dbias.defined()) CHECK(all_zero(r.dbias));

  // More queries than keys, causal: the first N - M see nothing, the others are as without them.
  AttentionCase longer{.N = 70, .M = 30, .options = {.causal = true, .layout = AttentionLayout::bhnd}};
  const AttentionResult causal = run_attention(fused, longer);
  CHECK(all_zero(slice(causal.y, 2, 0, 40)));
  CHECK(all_zero(slice(causal.dq, 2, 0, 40)));
  CHECK(max(abs(slice(causal.y, 2, 40, 41))).item() > 0);
}

TEST_CASE("dot_product: -infinity in the bias blocks like a mask, -1e9 in a whole row does not") {
  const Tensor mask = random_mask({33, 40}, 0.4, 2);
  AttentionCase c{.N = 33, .M = 40};
  c.options.mask = mask;
  const AttentionResult masked = run_attention(fused, c);
  c.options.mask = {};
  c.options.bias = where(mask, zeros({33, 40}, {.dtype = DType::float64}), full({33, 40}, -infinity, {.dtype = DType::float64}));
  const AttentionResult biased = run_attention(fused, c);
  CHECK(identical(masked.y, biased.y));
  CHECK(identical(masked.dk, biased.dk));
  c.options.bias = full({33, 40}, -1e9, {.dtype = DType::float64});
  const AttentionResult shifted = run_attention(fused, c);
  c.options.bias = {};
  CHECK(distance(shifted.y, run_attention(fused, c).y) < 1e-6);  // 1e-7 of the scores are left beside 1e9
}

TEST_CASE("dot_product: large scores, infinities and NaN") {
  AttentionCase c{.B = 1, .H = 1, .Hkv = 1, .N = 9, .M = 130, .D = 4, .Dv = 4, .dtype = DType::float32};
  const Tensor q = attention_input(c, 1, 9, 4, 1), k = attention_input(c, 1, 130, 4, 2), v = attention_input(c, 1, 130, 4, 3);
  // Scores near the end of float32: the largest wins, nothing overflows.
  const Tensor y = dot_product(q * 1e19, k * 1e18, v, {.scale = 0.5}).y;
  const Tensor winner = argmax(matmul(reshape(q, {9, 4}), reshape(k, {130, 4}), {.transpose_b = true}), -1);
  CHECK(identical(reshape(y, {9, 4}), index_select(reshape(v, {130, 4}), 0, winner)));
  // Later keys exceed the first ones by hundreds: the running maximum moves at every block.
  const Tensor rising = reshape(to(arange(130), DType::float32), {1, 1, 1, 130}) * 3.0;
  CHECK(distance(dot_product(q, k, v, {.bias = rising}).y, dot_product_reference(q, k, v, {.bias = rising}).y) < 1e-5);
  CHECK(distance(dot_product(q, k, v, {.bias = neg(rising)}).y, dot_product_reference(q, k, v, {.bias = neg(rising)}).y) < 1e-5);
  CHECK(distance(dot_product(q, k, v, {.bias = full({}, std::numeric_limits<float>::lowest())}).y,
                 broadcast_to(mean(v, {1}, true), {1, 9, 1, 4})) < 1e-6);
  // A NaN stays in its row.
  for (int64_t position : {0, 77, 129}) {
    Tensor bias = zeros({9, 130});
    on_host<float>(bias)[3 * 130 + position] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> rows = dot_product(q, k, v, {.bias = bias}).y.to_vector<float>();
    for (int64_t i = 0; i < 9 * 4; ++i) CHECK(std::isnan(rows[static_cast<size_t>(i)]) == (i / 4 == 3));
    Tensor blocked = full({9, 130}, -std::numeric_limits<double>::infinity());
    on_host<float>(blocked)[3 * 130 + position] = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isnan(dot_product(q, k, v, {.bias = blocked}).y.to_vector<float>()[3 * 4]));
  }
}

TEST_CASE("dot_product: float32 is as accurate as the reference") {
  for (const bool causal : {false, true}) {
    AttentionCase c{.B = 1, .H = 2, .Hkv = 2, .N = 200, .M = 333, .D = 64, .Dv = 64, .options = {.causal = causal}};
    const AttentionResult exact = run_attention(reference, c);
    c.dtype = DType::float32;
    const AttentionResult single = run_attention(fused, c);
    // On the CPU always: emulated cuBLAS adds up in float64, which no GPU does.
    const Device device = default_device();
    set_default_device(Device::cpu());
    const AttentionResult composed = run_attention(reference, c);
    set_default_device(device);
    const auto compare = [&](const Tensor& a, const Tensor& b, const Tensor& truth) {
      CHECK(distance(a, truth) <= 2 * distance(b, truth) + 1e-7);
    };
    compare(single.y, composed.y, exact.y);
    compare(single.dq, composed.dq, exact.dq);
    compare(single.dk, composed.dk, exact.dk);
    compare(single.dv, composed.dv, exact.dv);
  }
}

TEST_CASE("dot_product: dropout draws the bits of keep_mask, in the forward and in the backward") {
  const RandomKey key{.seed = 3, .offset = 7};
  for (int64_t m : {64, 67, 130}) {
    AttentionCase c{.N = 70, .M = m, .D = 8, .Dv = 8};
    c.options.dropout = 0.4, c.options.key = key, c.options.return_weights = true;
    const AttentionResult drawn = run_attention(fused, c);
    c.options.dropout = 0;
    c.options.dropout_multiplier = to(keep_mask({2, 4, 70, m}, 0.4, key), DType::float64) / 0.6;
    check_same(run_attention(fused, c), drawn, 1e-14);
  }
  // Broadcast multipliers; everything dropped.
  AttentionCase c{.N = 33, .M = 35};
  c.options.dropout_multiplier = to(random_mask({4, 1, 35}, 0.5, 2), DType::float64) * 2.0;
  check_case(c);
  c.options.dropout_multiplier = {};
  c.options.dropout = 1;
  CHECK(max(abs(run_attention(fused, c).y)).item() == 0);
  CHECK(max(abs(run_attention(fused, c).dv)).item() == 0);
}

TEST_CASE("dot_product gives the same bits for any number of threads") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const bool causal : {false, true}) {
      AttentionCase c{.B = 1, .H = 2, .Hkv = 1, .N = 500, .M = 700, .D = 20, .Dv = 20, .dtype = dtype};
      c.options.causal = causal, c.options.dropout = 0.1, c.options.bias = to(normal({500, 700}, 3), dtype);
      AttentionResult one;
      {
        const ThreadCount threads(1);
        one = run_attention(fused, c);
      }
      for (int n : {2, 3, 5}) {
        const ThreadCount threads(n);
        for (int repeat = 0; repeat < 3; ++repeat) CHECK(identical(one, run_attention(fused, c)));
      }
    }
  }
}

TEST_CASE("dot_product: every instruction set of this machine agrees") {
  std::vector<AttentionCase> cases;
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (int64_t d : {5, 64, 80}) {
      AttentionCase c{.N = 71, .M = 150, .D = d, .Dv = d + 3, .dtype = dtype};
      c.options = {.causal = true, .mask = random_mask({71, 150}, 0.8, 2), .bias = to(normal({4, 71, 150}, 3), dtype), .dropout = 0.2};
      cases.push_back(c);
    }
  }
  std::vector<AttentionResult> expected;
  for (const AttentionCase& c : cases) expected.push_back(run_attention(reference, c));
  const int64_t supported = hwy::SupportedTargets();
  for (const int64_t target : {HWY_SCALAR, HWY_AVX2, HWY_AVX3}) {
    if ((supported & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    CAPTURE(hwy::TargetName(target));
    const Tensor nan_query = full({1, 1, 1, 5}, std::numeric_limits<double>::quiet_NaN()),
                 keys = to(normal({1, 7, 1, 5}, 4), DType::float32);
    CHECK(std::isnan(sum(dot_product(nan_query, keys, keys).y).item()));  // a run that has diverged must not look healthy
    for (size_t i = 0; i < cases.size(); ++i) {
      check_same(run_attention(fused, cases[i]), expected[i], cases[i].dtype == DType::float64 ? 1e-12 : 1e-5);
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST_CASE("dot_product: memory grows with N, not with N^2") {
  const auto extra = [](int64_t n) {
    const Tensor q = parameter(zeros({1, n, 2, 8})), k = parameter(zeros({1, n, 2, 8})), v = parameter(zeros({1, n, 2, 8}));
    const int64_t before = bytes_in_use();
    reset_peak_bytes();
    {
      const Tensor y = dot_product(q, k, v, {.causal = true}).y;
      gradients(y, {q, k, v}, y);
    }
    CHECK(bytes_in_use() == before);
    return peak_bytes() - before;
  };
  const int64_t long_length = is_slow() ? 1024 : 16384;
  const int64_t small = extra(long_length / 2), large = extra(long_length);
  CHECK(large < 2.2 * static_cast<double>(small));
  CHECK(large < long_length * 2 * 8 * 4 * 8 + (4 << 20));  // y, dy, dq, dk, dv, lse, delta, and a workspace for each thread
}

TEST_CASE("dot_product: empty tensors") {
  const auto shape_of = [](int64_t b, int64_t n, int64_t m) {
    const AttentionResult r = run_attention(fused, {.B = b, .N = n, .M = m});
    CHECK(r.dk.shape() == Shape({b, m, 2, 5}));
    if (r.dk.numel() > 0) CHECK(max(abs(r.dk)).item() == 0);
    if (r.dq.numel() > 0) CHECK(max(abs(r.dq)).item() == 0);
    if (r.y.numel() > 0) CHECK(max(abs(r.y)).item() == 0);
    return r.y.shape();
  };
  CHECK(shape_of(2, 0, 9) == Shape({2, 0, 4, 5}));
  CHECK(shape_of(2, 7, 0) == Shape({2, 7, 4, 5}));
  CHECK(shape_of(0, 7, 9) == Shape({0, 7, 4, 5}));
  CHECK(dot_product(zeros({1, 3, 2, 4}), zeros({1, 5, 2, 4}), zeros({1, 5, 2, 0})).y.shape() == Shape({1, 3, 2, 0}));
}

TEST_CASE("dot_product: check vectors") {
  // Entry i of an input is sin(0.37 i + s).
  const auto wave = [](double s, const Shape& shape) {
    std::vector<double> values(static_cast<size_t>(shape.numel()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.37 * static_cast<double>(i) + s);
    return from_vector<double>(values, shape);
  };
  const auto value = [](const std::vector<double>& x, const Shape& shape) { return from_vector<double>(x, shape); };
  const Tensor q = parameter(wave(0.1, {1, 3, 1, 2})), k = parameter(wave(1.2, {1, 5, 1, 2})), v = parameter(wave(2.3, {1, 5, 1, 2})),
               bias = parameter(wave(4.5, {3, 5}));
  const Tensor y = dot_product(q, k, v, {.causal = true, .bias = bias}).y;
  CHECK(close(y, value({0.13084938, -0.17343681, -0.01248493, -0.28417796, 0.28966708, -0.00727742}, {1, 3, 1, 2}), 1e-8));
  const Grads grads = gradients(y, {q, k, v, bias}, wave(3.4, {1, 3, 1, 2}));
  CHECK(close(grads[0], value({-0.05948121, -0.11485665, -0.24501806, -0.36387141, -0.14650810, -0.25076600}, {1, 3, 1, 2}), 1e-8));
  CHECK(close(
      grads[1],
      value({-0.51590573, -0.59653249, 0.07965359, 0.07237168, 0.27667665, 0.34354849, 0.14621364, 0.16819917, 0.01336186, 0.01241315},
            {1, 5, 1, 2}),
      1e-8));
  CHECK(close(grads[2],
              value({-0.82310336, -0.92299782, -0.71800735, -0.83391399, -0.39294876, -0.50953287, -0.13673769, -0.15005779, -0.01133947,
                     -0.00987830},
                    {1, 5, 1, 2}),
              1e-8));
  CHECK(close(grads[3],
              value({-0.19345147, 0.02057880, 0.17287267, 0, 0, -0.39433518, -0.03982637, 0.24644416, 0.18771739, 0, -0.41666663,
                     0.14025511, 0.19051652, 0.06699769, 0.01889732},
                    {3, 5}),
              1e-8));
  const Tensor late = dot_product(wave(0.1, {1, 4, 1, 2}), wave(1.2, {1, 2, 1, 2}), wave(2.3, {1, 2, 1, 2}), {.causal = true}).y;
  CHECK(close(late, value({0, 0, 0, 0, 0.74570521, 0.45430567, 0.43647902, 0.10898017}, {1, 4, 1, 2}), 1e-8));
}

TEST_CASE("dot_product: invariances of softmax attention") {
  // A constant added to all keys shifts whole rows of scores: the gradients of the keys add up to zero.
  const AttentionResult r = run_attention(fused, {.N = 70, .M = 90, .options = {.causal = true}});
  CHECK(max(abs(sum(r.dk, {1}))).item() < 1e-12);
  // Structured masks and bool masks are the same to the bit.
  AttentionCase c{.N = 70, .M = 90, .options = {.causal = true, .key_lengths = from_vector<int64_t>({90, 50}, {2})}};
  const AttentionResult structured = run_attention(fused, c);
  c.options = {.mask = logical_and(tril_mask(70, 90, 20),
                                   reshape(less(reshape(arange(90), {1, 90}), from_vector<int64_t>({90, 50}, {2, 1})), {2, 1, 1, 90}))};
  check_same(structured, run_attention(fused, c), 1e-14);
}

TEST_CASE("dot_product: errors") {
  const Tensor q = zeros({2, 5, 6, 4}), k = zeros({2, 7, 3, 4});
  CHECK(has(error_of([&] { dot_product(q, k, zeros({2, 7, 2, 4})); }), "dot_product: k and v need the same keys and heads"));
  CHECK(has(error_of([&] { dot_product(q, k, k, {.bias = zeros({6, 5, 8})}); }), "dot_product: bias [6, 5, 8] does not broadcast"));
  CHECK(has(error_of([&] { dot_product(q, k, k, {.dropout = -0.1}); }), "dot_product: dropout must be in [0, 1]"));
  CHECK(has(error_of([&] { dot_product(q, k, k, {.compact_weights = true}); }), "dot_product: there is no compact layout"));
  const Tensor half = to(to(q, DType::float16), Device::cpu()), half_k = to(to(k, DType::float16), Device::cpu());
  CHECK(has(error_of([&] { dot_product(half, half_k, half_k); }), "dot_product: expected float32 or float64, got float16"));
}
