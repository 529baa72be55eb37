// Optimizer steps and the norm of gradients on CUDA: parameters of many sizes and dtypes in one call.
#include <limits>

#include "core/cuda/on_cuda.h"
#include "weft/autograd/ops.h"
#include "weft/core/cuda/device.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/ema.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

const std::vector<int64_t> sizes = {1, 7, 64, 1000, 4096, 4099, 9001};

// A value and a gradient for every size.
std::vector<Tensor> values_and_gradients() {
  std::vector<Tensor> xs;
  for (size_t i = 0; i < sizes.size(); ++i) {
    xs.push_back(normal({sizes[i]}, 2 * i));
    xs.push_back(normal({sizes[i]}, 2 * i + 1));
  }
  return xs;
}

TensorOptions state_options(const Tensor& value) {
  return {.dtype = size_of(value.dtype()) == 2 ? DType::float32 : value.dtype(), .device = value.device()};
}

// A slot with everything that any rule needs, in its own memory.
ParameterSlot slot_of(const Tensor& value, const Tensor& grad, int i) {
  ParameterSlot slot{.value = clone(value), .grad = clone(grad), .lr = 0.01 * (i + 1), .weight_decay = 0.1 * i};
  slot.step = zeros({}, {.dtype = DType::int64, .device = value.device()});
  slot.moment1 = zeros(value.shape(), state_options(value));
  slot.moment2 = zeros(value.shape(), state_options(value));
  slot.max_moment2 = zeros(value.shape(), state_options(value));
  if (size_of(value.dtype()) == 2) slot.master = to(value, DType::float32);
  return slot;
}

std::vector<ParameterSlot> slots_of(const std::vector<Tensor>& in) {
  std::vector<ParameterSlot> slots;
  for (size_t i = 0; i < in.size(); i += 2) slots.push_back(slot_of(in[i], in[i + 1], static_cast<int>(i)));
  return slots;
}

std::vector<Tensor> tensors_of(const std::vector<ParameterSlot>& slots) {
  std::vector<Tensor> ys;
  for (const ParameterSlot& s : slots) ys.insert(ys.end(), {s.value, s.moment1, s.moment2, s.max_moment2, s.step});
  return ys;
}

void run(std::span<ParameterSlot> slots, const AdamRule& rule) { WEFT_LAUNCH(slots[0].value, adam_step(slots, rule)); }
void run(std::span<ParameterSlot> slots, const SgdRule& rule) { WEFT_LAUNCH(slots[0].value, sgd_step(slots, rule)); }

// Steps with each of the rules, one after the other.
template <class Rule>
void check_steps(const std::vector<Rule>& rules) {
  check_on_cuda(values_and_gradients(), [&](const std::vector<Tensor>& in) {
    std::vector<ParameterSlot> slots = slots_of(in);
    for (const Rule& rule : rules) {
      run(slots, rule);
      for (ParameterSlot& slot : slots) WEFT_LAUNCH(slot.grad, mul_scalar(slot.grad, slot.grad, -0.5));  // another gradient
    }
    return tensors_of(slots);
  });
}

Tensor on_cuda(double value) { return to(scalar(value, {.dtype = DType::float64, .device = Device::cpu()}), Device::cuda()); }

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (weft::testing::distance(a[i], b[i]) != 0) return false;
  }
  return a.size() == b.size();
}

std::vector<Tensor> clones(const std::vector<Tensor>& xs) {
  std::vector<Tensor> ys;
  for (const Tensor& x : xs) ys.push_back(clone(x));
  return ys;
}

}  // namespace

TEST_CASE("cuda: adam steps") {
  SUBCASE("plain") { check_steps<AdamRule>({{}, {}, {}}); }
  SUBCASE("decoupled") { check_steps<AdamRule>({{.decoupled = true}, {.decoupled = true, .grad_scale = 0.25}}); }
  SUBCASE("amsgrad") { check_steps<AdamRule>({{.beta1 = 0.8, .amsgrad = true}, {.beta1 = 0.8, .beta2 = 0.9, .amsgrad = true}}); }
}

TEST_CASE("cuda: sgd steps") {
  SUBCASE("plain") { check_steps<SgdRule>({{}, {.grad_scale = -0.5}}); }
  SUBCASE("momentum") { check_steps<SgdRule>({{.momentum = 0.9, .dampening = 0.1}, {.momentum = 0.9, .dampening = 0.1}}); }
  SUBCASE("nesterov") { check_steps<SgdRule>({{.momentum = 0.9, .nesterov = true}, {.momentum = 0.9, .nesterov = true}}); }
}

TEST_CASE("cuda: the first sgd step does not read its momentum") {
  ParameterSlot slot{.value = to(normal({33}), Device::cuda()), .grad = to(normal({33}, 2), Device::cuda()), .lr = 0.1};
  slot.moment1 = empty_like(slot.value);
  slot.step = zeros({}, {.dtype = DType::int64, .device = Device::cuda()});
  cuda::sgd_step({&slot, 1}, {.momentum = 0.9});
  CHECK(same({slot.moment1}, {slot.grad}));
}

TEST_CASE("cuda: moving averages of parameters") {
  check_on_cuda(values_and_gradients(), [](const std::vector<Tensor>& in) {
    std::vector<ParameterSlot> slots = slots_of(in);
    WEFT_LAUNCH(in[0], ema_step(slots, 0.75));
    WEFT_LAUNCH(in[0], ema_step(slots, 0.9));
    std::vector<Tensor> ys;
    for (const ParameterSlot& slot : slots) ys.insert(ys.end(), {slot.value, slot.moment1});
    return ys;
  });
}

TEST_CASE("cuda: parameters of several dtypes share a step") {
  std::vector<ParameterSlot> together, alone;
  for (auto* slots : {&together, &alone}) {
    int i = 0;
    for (DType dtype : {DType::float32, DType::bfloat16, DType::float64, DType::float16, DType::float32}) {
      slots->push_back(slot_of(to(to(normal({40 + i, 3}, static_cast<uint64_t>(i)), dtype), Device::cuda()),
                               to(to(normal({40 + i, 3}, 9), dtype), Device::cuda()), i));
      ++i;
    }
  }
  cuda::adam_step(together, {.decoupled = true});
  for (ParameterSlot& slot : alone) cuda::adam_step({&slot, 1}, {.decoupled = true});
  CHECK(same(tensors_of(together), tensors_of(alone)));
  for (const ParameterSlot& slot : together) {
    if (slot.master.defined()) CHECK(same({slot.value}, {to(slot.master, slot.value.dtype())}));
  }
}

TEST_CASE("cuda: half precision values that were changed between steps count, the others keep their masters") {
  ParameterSlot slot =
      slot_of(to(to(normal({100}), DType::bfloat16), Device::cuda()), to(to(normal({100}, 2), DType::bfloat16), Device::cuda()), 1);
  slot.lr = 1e-5;  // less than what bfloat16 can tell
  for (int i = 0; i < 3; ++i) cuda::sgd_step({&slot, 1}, {});
  const Tensor kept = to_host(slot.master);
  Tensor loaded = to(slot.value, DType::float32);
  loaded = to_host(loaded);
  for (int64_t i = 0; i < 50; ++i) loaded.data<float>()[i] = static_cast<float>(i + 1);
  slot.value.copy_from(to(to(loaded, Device::cuda()), DType::bfloat16));
  const Tensor grad = to_host(to(slot.grad, DType::float32));
  cuda::sgd_step({&slot, 1}, {});
  const Tensor master = to_host(slot.master);
  for (int64_t i = 0; i < 100; ++i) {
    const double from = i < 50 ? static_cast<double>(i + 1) : static_cast<double>(kept.data<float>()[i]);
    const double g = static_cast<double>(grad.data<float>()[i]) + slot.weight_decay * from;
    CHECK(static_cast<double>(master.data<float>()[i]) == doctest::Approx(from - slot.lr * g).epsilon(1e-7));
  }
}

TEST_CASE("cuda: half precision without a master is updated itself") {
  ParameterSlot with =
      slot_of(to(to(normal({100}), DType::bfloat16), Device::cuda()), to(to(normal({100}, 2), DType::bfloat16), Device::cuda()), 1);
  ParameterSlot without = with;
  without.value = clone(with.value);
  without.step = clone(with.step);
  without.master = {};
  cuda::sgd_step({&with, 1}, {});
  cuda::sgd_step({&without, 1}, {});
  CHECK(same({with.value}, {without.value}));
}

TEST_CASE("cuda: a scale of the gradients that lies on the device") {
  const std::vector<Tensor> in = weft::testing::moved(weft::testing::converted(values_and_gradients(), DType::float32), Device::cuda());
  std::vector<ParameterSlot> a = slots_of(in), b = slots_of(in);
  const int64_t before = cuda::synchronization_count();
  cuda::adam_step(a, {.grad_scale = 0.125});
  cuda::adam_step(b, {.grad_scale = 0.5, .grad_scale_tensor = on_cuda(0.25), .skip_nonfinite = true});
  cuda::sgd_step(a, {.momentum = 0.5, .grad_scale = 0.125});
  cuda::sgd_step(b, {.momentum = 0.5, .grad_scale = 0.5, .grad_scale_tensor = on_cuda(0.25)});
  CHECK(cuda::synchronization_count() == before);
  CHECK(same(tensors_of(a), tensors_of(b)));
}

TEST_CASE("cuda: steps whose scale is not finite are left out if asked for") {
  const std::vector<Tensor> in = weft::testing::moved(weft::testing::converted(values_and_gradients(), DType::float32), Device::cuda());
  std::vector<ParameterSlot> slots = slots_of(in);
  const std::vector<Tensor> before = clones(tensors_of(slots));
  for (double scale : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()}) {
    cuda::adam_step(slots, {.grad_scale_tensor = on_cuda(scale), .skip_nonfinite = true});
    cuda::sgd_step(slots, {.momentum = 0.9, .grad_scale_tensor = on_cuda(scale), .skip_nonfinite = true});
    cuda::sgd_step(slots, {.grad_scale = scale, .skip_nonfinite = true});
  }
  CHECK(same(tensors_of(slots), before));
  cuda::sgd_step(slots, {.grad_scale_tensor = on_cuda(infinity)});
  CHECK_FALSE(same(tensors_of(slots), before));
}

TEST_CASE("cuda: parameters and gradients on two devices are an error") {
  const Tensor here = parameter(ones({3}, {.device = Device::cpu()})), there = parameter(ones({3}, {.device = Device::cuda()}));
  const auto refused = [](auto f) { CHECK(testing::has(testing::error_of(f), "parameters are on c")); };
  refused([&] { grad_norm(std::vector<Tensor>{here, there}); });
  refused([&] { grad_norm(std::vector<Tensor>{there, here}); });
  refused([&] { Ema({here, there}, 0.9); });
  refused([&] { AdamW({there, here}); });
  CHECK(testing::error_of([&] { set_grad(there, ones({3}, {.device = Device::cpu()})); }) ==
        "set_grad: the parameter is on cuda:0, the gradient on cpu; move it with to(x, cuda:0)");
  CHECK(
      testing::has(testing::error_of([&] { add(here, there); }), "add: a is float32 [3] on cpu, but b is float32 [3] on cuda:0; move one"));
}

TEST_CASE("cuda: squared norm") {
  const auto norm_of = [](const std::vector<Tensor>& in) {
    Tensor y = empty({}, {.dtype = DType::float64, .device = in[0].device()});
    WEFT_LAUNCH(y, squared_norm(y, in));
    return y;
  };
  check_on_cuda(
      values_and_gradients(), [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{norm_of(in)}; },
      weft::testing::compute_dtypes, 16);
  SUBCASE("mixed dtypes, an empty tensor, a view") {
    const std::vector<Tensor> in = {to(normal({100}), DType::float16), normal({70, 3}, 2),
                                    to(normal({33, 3}, 3), DType::float32).rows(1, 33), empty({0}, {.device = Device::cpu()})};
    const Tensor expected = norm_of({to(in[0], DType::float64), in[1], in[2]});
    CHECK(norm_of(weft::testing::moved(in, Device::cuda())).item() == doctest::Approx(expected.item()).epsilon(1e-14));
  }
  SUBCASE("nothing at all") {
    CHECK(norm_of({empty({0}, {.device = Device::cuda()})}).item() == 0);
    CHECK(std::isinf(norm_of({to(full({9}, infinity, {.device = Device::cpu()}), Device::cuda())}).item()));
  }
  SUBCASE("large float32 numbers do not overflow, and nobody waits") {
    const Tensor x = to(full({1000}, 1e30, {.device = Device::cpu()}), Device::cuda());
    const int64_t before = cuda::synchronization_count();
    const Tensor y = norm_of({x});
    CHECK(cuda::synchronization_count() == before);
    CHECK(y.item() == doctest::Approx(1e63).epsilon(1e-6));
  }
}

TEST_CASE("cuda: steps of views that do not begin at 16 bytes, and of empty parameters") {
  check_on_cuda({normal({33, 3}), normal({33, 3}, 2)}, [](const std::vector<Tensor>& in) {
    std::vector<ParameterSlot> slots = slots_of({in[0], in[1], in[0].rows(0, 0), in[1].rows(0, 0)});
    ParameterSlot& slot = slots[0];
    for (Tensor* t : {&slot.value, &slot.grad, &slot.moment1, &slot.moment2, &slot.max_moment2, &slot.master}) {
      if (t->defined()) *t = t->rows(1, 33);
    }
    WEFT_LAUNCH(in[0], adam_step(slots, {}));
    return std::vector<Tensor>{slot.value, slot.moment1, slot.moment2};
  });
}
