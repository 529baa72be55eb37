// Layer norm, RMS norm and group norm on CUDA: rows of lanes, warps and blocks and longer ones, with and without weight and bias, and
// gradients of those over many rows.
#include "core/cuda/on_cuda.h"
#include "weft/autograd/graph.h"
#include "weft/autograd/ops.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::compute_dtypes;
using weft::testing::normal;

namespace {

// Gradients that are zero but for rounding are compared where float32 tells how much that is.
const std::vector<DType> but_float64 = {DType::float32, DType::float16, DType::bfloat16};
constexpr double units = 16;  // float64 is its own measure: sums in another order differ from it

Tensor like(const Tensor& parameter, bool wanted = true) { return parameter.defined() && wanted ? empty_like(parameter) : Tensor(); }
Tensor statistics(const Shape& shape, const Tensor& x) { return empty(shape, {.dtype = acc_dtype(x.dtype()), .device = x.device()}); }

Shape rows_of(const Tensor& x) {
  Shape shape = x.shape();
  shape.erase(x.rank() - 1);
  return shape;
}

// in: x, dy, weight, bias; the last two may be undefined. Undefined results are left out.
std::vector<Tensor> layer_norm_all(const std::vector<Tensor>& in, double eps = 1e-5) {
  const Tensor &x = in[0], &weight = in[2], &bias = in[3];
  Tensor y = empty_like(x), mean = statistics(rows_of(x), x), rstd = empty_like(mean);
  WEFT_LAUNCH(x, layer_norm(y, mean, rstd, x, weight, bias, eps));
  Tensor dx = empty_like(x), dweight = like(weight), dbias = like(bias);
  WEFT_LAUNCH(x, layer_norm_backward(dx, dweight, dbias, in[1], x, mean, rstd, weight));
  std::vector<Tensor> out{y, mean, rstd, dx};
  if (dweight.defined()) out.push_back(dweight);
  if (dbias.defined()) out.push_back(dbias);
  return out;
}

std::vector<Tensor> rms_norm_all(const std::vector<Tensor>& in, double eps = 1e-5) {
  const Tensor &x = in[0], &weight = in[2];
  Tensor y = empty_like(x), rstd = statistics(rows_of(x), x);
  WEFT_LAUNCH(x, rms_norm(y, rstd, x, weight, eps));
  Tensor dx = empty_like(x), dweight = like(weight);
  WEFT_LAUNCH(x, rms_norm_backward(dx, dweight, in[1], x, rstd, weight));
  std::vector<Tensor> out{y, rstd, dx};
  if (dweight.defined()) out.push_back(dweight);
  return out;
}

std::vector<Tensor> group_norm_all(const std::vector<Tensor>& in, int64_t groups, double eps = 1e-5) {
  const Tensor &x = in[0], &weight = in[2], &bias = in[3];
  Tensor y = empty_like(x), mean = statistics({x.size(0), groups}, x), rstd = empty_like(mean);
  WEFT_LAUNCH(x, group_norm(y, mean, rstd, x, weight, bias, groups, eps));
  Tensor dx = empty_like(x), dweight = like(weight), dbias = like(bias);
  WEFT_LAUNCH(x, group_norm_backward(dx, dweight, dbias, in[1], x, mean, rstd, weight, groups));
  std::vector<Tensor> out{y, mean, rstd, dx};
  if (dweight.defined()) out.push_back(dweight);
  if (dbias.defined()) out.push_back(dbias);
  return out;
}

Tensor shifted(Tensor x, double by) {
  for (int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] += by;
  return x;
}

void check_rows(const Shape& shape, const std::vector<DType>& dtypes = compute_dtypes) {
  const int64_t n = shape.back();
  const Tensor x = shifted(normal(shape), 0.5), dy = normal(shape, 2), weight = normal({n}, 3), bias = normal({n}, 4);
  INFO("x ", describe(x));
  check_on_cuda(
      {x, dy, weight, bias}, [](const auto& in) { return layer_norm_all(in); }, dtypes, units);
  check_on_cuda(
      {x, dy, weight, bias}, [](const auto& in) { return rms_norm_all(in); }, dtypes, units);
}

void check_groups(const Shape& shape, int64_t groups, const std::vector<DType>& dtypes = compute_dtypes) {
  const Tensor x = shifted(normal(shape), 0.5), dy = normal(shape, 2), weight = normal({shape[1]}, 3), bias = normal({shape[1]}, 4);
  INFO("x ", describe(x), " in ", groups, " groups");
  check_on_cuda(
      {x, dy, weight, bias}, [&](const auto& in) { return group_norm_all(in, groups); }, dtypes, units);
  check_on_cuda(
      {x, dy, weight, Tensor()}, [&](const auto& in) { return group_norm_all(in, groups); }, dtypes, units);
}

}  // namespace

TEST_CASE("cuda: layer_norm and rms_norm of rows") {
  for (int64_t n : {1, 2}) check_rows({5, n}, but_float64);
  for (int64_t n : {7, 8, 33, 64, 129, 256, 257, 520, 1032}) check_rows({5, n});
  check_rows({2, 2048});  // as many as a block keeps in the backward
  check_rows({2, 4099});
  check_rows({77});
}

TEST_CASE("cuda: layer_norm and rms_norm of many rows: sums over rows for weight and bias") {
  check_rows({1000, 3}, {DType::float32, DType::float64});
  check_rows({1000, 8});
  check_rows({20, 33, 40}, {DType::float32, DType::bfloat16});
  check_rows({70, 300});
  check_rows({35, 520}, {DType::float32, DType::float16});
}

TEST_CASE("cuda: layer_norm and rms_norm of rows that do not fit into registers") {
  check_rows({20, 8200}, {DType::float32});
  check_rows({3, 8201}, {DType::float32, DType::float64});
  check_rows({3, 16400}, {DType::bfloat16, DType::float16});
}

TEST_CASE("cuda: norms without weight or bias") {
  for (int64_t n : {7, 64, 600, 8200}) {
    const Tensor x = normal({3, n}), dy = normal({3, n}, 2), weight = normal({n}, 3), bias = normal({n}, 4), none;
    for (const auto& [w, b] : {std::pair{none, none}, {weight, none}, {none, bias}}) {
      const std::vector<Tensor> in{x, dy, w, b};
      check_on_cuda(
          in, [](const auto& all) { return layer_norm_all(all, 0.1); }, {DType::float32}, units);
      check_on_cuda(
          in, [](const auto& all) { return rms_norm_all(all, 0.1); }, {DType::float32}, units);
    }
  }
  check_on_cuda({normal({4, 6, 5}), normal({4, 6, 5}, 2), Tensor(), Tensor()}, [](const auto& in) { return group_norm_all(in, 2); });
}

TEST_CASE("cuda: a weight that wants no gradient") {
  for (int64_t n : {64, 8200}) {
    const std::vector<Tensor> in{normal({3, n}), normal({3, n}, 2), normal({n}, 3)};
    check_on_cuda(
        in,
        [](const std::vector<Tensor>& all) {
          Tensor y = empty_like(all[0]), mean = statistics({3}, y), rstd = empty_like(mean), dx = empty_like(y), none;
          WEFT_LAUNCH(y, layer_norm(y, mean, rstd, all[0], all[2], none, 1e-5));
          WEFT_LAUNCH(y, layer_norm_backward(dx, none, none, all[1], all[0], mean, rstd, all[2]));
          return std::vector<Tensor>{y, dx};
        },
        {DType::float32, DType::float16}, units);
  }
}

TEST_CASE("cuda: group_norm") {
  for (int64_t groups : {1, 2, 6}) {
    check_groups({3, 6}, groups, but_float64);
    check_groups({3, 6, 7}, groups);
    check_groups({2, 6, 4, 16}, groups);
    check_groups({2, 6, 33, 5}, groups, {DType::float32, DType::bfloat16});
    check_groups({1, 6, 1600}, groups, {DType::float32});
  }
  check_groups({40, 4, 8}, 2, {DType::float32, DType::float16});
  check_groups({2, 4, 4104}, 1, {DType::float32, DType::bfloat16});  // beyond the registers
}

TEST_CASE("cuda: norms of numbers far from zero, of squares that overflow, of infinities and NaN") {
  for (int64_t n : {6, 64, 700, 8200, 4099}) {
    Tensor x = normal({5, n}), dy = normal({5, n}, 2);
    for (int64_t i = 0; i < n; ++i) {
      x.data<double>()[i] += 1000;
      x.data<double>()[n + i] *= 1e25;  // beside rows that are ordinary
    }
    const auto outputs = [](std::vector<Tensor> all) { return std::vector<Tensor>(all.begin(), all.end() - 1); };  // not dx
    const std::vector<DType> wide = {DType::float32, DType::bfloat16};
    check_on_cuda(
        {x, dy, Tensor(), Tensor()}, [&](const auto& in) { return outputs(layer_norm_all(in)); }, wide, units);
    check_on_cuda(
        {x, dy, Tensor(), Tensor()}, [&](const auto& in) { return outputs(rms_norm_all(in)); }, wide, units);
    x = normal({5, n});
    x.data<double>()[3 * n + 1] = std::numeric_limits<double>::quiet_NaN();
    check_on_cuda(
        {x, dy, Tensor(), Tensor()}, [&](const auto& in) { return layer_norm_all(in); }, compute_dtypes, units);
    check_on_cuda(
        {x, dy, Tensor(), Tensor()}, [&](const auto& in) { return rms_norm_all(in); }, compute_dtypes, units);
    x.data<double>()[4 * n] = std::numeric_limits<double>::infinity();
    check_on_cuda(
        {x},
        [&](const auto& in) {
          return std::vector{layer_norm_all({in[0], in[0], Tensor(), Tensor()})[0]};
        },
        compute_dtypes, units);
  }
}

TEST_CASE("cuda: norms of constant rows, of nothing, and of views that do not begin at 16 bytes") {
  const Tensor constant = full({3, 64}, 2.5, {.dtype = DType::float64, .device = Device::cpu()});
  check_on_cuda({constant, normal({3, 64}), normal({64}, 3), normal({64}, 4)}, [](const auto& in) { return layer_norm_all(in); });
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 0}}) {
    check_on_cuda({normal(shape), normal(shape), normal({shape[1]}), normal({shape[1]})}, [](const auto& in) {
      std::vector<Tensor> out = layer_norm_all(in);
      if (in[0].size(1) == 0) out.resize(1);  // rows of nothing have no statistics
      return out;
    });
  }
  for (const Shape& shape : {Shape{0, 4, 3}, Shape{2, 4, 0}}) {
    check_on_cuda({normal(shape), normal(shape), normal({4}), normal({4})}, [](const auto& in) {
      const std::vector<Tensor> all = group_norm_all(in, 2);
      return std::vector<Tensor>{all[0], all[3], all[4], all[5]};
    });
  }
  check_on_cuda({normal({5 * 64}), normal({5 * 64}, 2), normal({66}, 3), normal({66}, 4)}, [](const std::vector<Tensor>& in) {
    const auto part = [](const Tensor& x) { return x.rows(1, 257).viewed_as({4, 64}); };
    return layer_norm_all({part(in[0]), part(in[1]), in[2].rows(1, 65), in[3].rows(2, 66)});
  });
}

TEST_CASE("cuda: norms in half precision through the graph") {
  for (DType dtype : {DType::float16, DType::bfloat16}) {
    const auto make = [&](const Shape& shape, uint64_t seed) { return parameter(to(to(normal(shape, seed), dtype), Device::cuda())); };
    const Tensor x = make({5, 12}, 1), weight = make({12}, 2), bias = make({12}, 3);
    const Tensor dy = detach(make({5, 12}, 4));
    for (const Tensor& y : {layer_norm(x, weight, bias), rms_norm(x, weight), group_norm(x, 3, weight, bias), l2_normalize(x)}) {
      CHECK(y.dtype() == dtype);
      CHECK(gradients(y, {x}, dy)[0].dtype() == dtype);
    }
    CHECK(gradients(layer_norm(x, weight, bias), {weight}, dy)[0].dtype() == dtype);
  }
}

TEST_CASE("cuda: norms give the same bits every time") {
  for (const Shape& shape : {Shape{300, 24}, Shape{40, 700}, Shape{40, 8200}}) {
    const Tensor x = normal(shape), dy = normal(shape, 2), weight = normal({shape[1]}, 3), bias = normal({shape[1]}, 4);
    const std::vector<Tensor> in = weft::testing::moved(weft::testing::converted({x, dy, weight, bias}, DType::float32), Device::cuda());
    const std::vector<Tensor> once = layer_norm_all(in), again = layer_norm_all(in);
    for (size_t i = 0; i < once.size(); ++i) CHECK(weft::testing::distance(once[i], again[i]) == 0);
  }
}
