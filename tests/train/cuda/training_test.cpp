// Training on CUDA beside the CPU: the same losses, no waiting, half precision close to float32.
#include "testing.h"
#include "weft/core/cuda/device.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/loss_scale.h"
#include "weft/train/models/language_model.h"

using namespace weft;

namespace {

constexpr int64_t vocab = 17, context = 12, batch = 3;

// A tiny language model that learns one text, step by step.
class Training {
 public:
  Training(Device device, DType dtype, const std::string& attention = "dot_product", double dropout = 0, uint64_t seed = 3)
      : device_(device), scale_(device, {.initial = 1024}), scaled_(dtype == DType::float16) {
    manual_seed(seed);
    model_ = make_language_model(
        "transformer",
        {.vocab_size = vocab, .dim = 32, .depth = 2, .heads = 4, .context = context, .dropout = dropout, .attention = attention});
    convert(model_, dtype, device);
    optimizer_ = std::make_unique<AdamW>(parameters(model_), AdamWOptions{.lr = 3e-3});
    std::vector<int64_t> text;
    for (int64_t i = 0; i < batch * (context + 1); ++i) text.push_back((i * i / 3 + i) % vocab);
    const Tensor ids = from_vector(text, {batch, context + 1}, device);
    inputs_ = slice(ids, 1, 0, context);
    targets_ = slice(ids, 1, 1, context + 1);
    manual_seed(4);
  }

  Tensor step() {
    const Tensor loss = cross_entropy(model_(inputs_), targets_);
    backward(scaled_ ? scale_.apply(loss) : loss);
    Tensor norm = grad_norm(optimizer_->parameters());
    if (scaled_) norm = scale_.remove(norm);
    const Tensor factor = clip_scale(norm, 1);
    optimizer_->step(scaled_ ? scale_.remove(factor) : factor);
    if (scaled_) scale_.update(norm);
    optimizer_->zero_grad();
    return detach(loss);
  }
  std::vector<double> losses(int count) {
    std::vector<double> values;
    for (int i = 0; i < count; ++i) values.push_back(step().item());
    return values;
  }

 private:
  Device device_;
  LanguageModel model_;
  std::unique_ptr<AdamW> optimizer_;
  LossScale scale_;
  bool scaled_;
  Tensor inputs_, targets_;
};

// |a - b| relative to b, the largest.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]) / std::fabs(b[i]));
  return largest;
}

}  // namespace

TEST_CASE("cuda: ten training steps have the CPU's losses") {
  for (const char* attention : {"dot_product", "local:window=4"}) {
    CAPTURE(attention);
    for (double dropout : {0.0, 0.2}) {
      CAPTURE(dropout);
      const auto cpu = Training(Device::cpu(), DType::float32, attention, dropout).losses(10);
      const auto gpu = Training(Device::cuda(), DType::float32, attention, dropout).losses(10);
      CHECK(largest_difference(gpu, cpu) < 1e-5);
      CHECK(cpu[9] < cpu[0]);
    }
  }
}

TEST_CASE("cuda: two devices train side by side") {
  if (cuda_device_count() < 2) return;
  Training cpu(Device::cpu(), DType::float32), first(Device::cuda(0), DType::float32), second(Device::cuda(1), DType::float32);
  for (int i = 0; i < 3; ++i) {
    const double expected = cpu.step().item();
    const Tensor a = second.step(), b = first.step();
    CHECK(a.device() == Device::cuda(1));
    CHECK(a.item() == doctest::Approx(expected).epsilon(1e-5));
    CHECK(b.item() == doctest::Approx(expected).epsilon(1e-5));
  }
}

TEST_CASE("cuda: the same run gives the same bits") {
  CHECK(Training(Device::cuda(), DType::float32).losses(4) == Training(Device::cuda(), DType::float32).losses(4));
  CHECK(Training(Device::cuda(), DType::bfloat16).losses(4) == Training(Device::cuda(), DType::bfloat16).losses(4));
}

TEST_CASE("cuda: a training step does not wait for the device") {
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    CAPTURE(to_text(dtype));
    Training training(Device::cuda(), dtype, "dot_product", 0.1);
    training.step();
    const int64_t before = cuda::synchronization_count();
    Tensor loss;
    for (int i = 0; i < 3; ++i) loss = training.step();
    CHECK(cuda::synchronization_count() == before);
    CHECK(std::isfinite(loss.item()));
    CHECK(cuda::synchronization_count() == before + 1);
  }
}

TEST_CASE("cuda: memory does not grow from step to step") {
  Training training(Device::cuda(), DType::float32);
  training.step();
  const int64_t before = bytes_in_use(Device::cuda());
  for (int i = 0; i < 5; ++i) training.step();
  CHECK(bytes_in_use(Device::cuda()) == before);
}

TEST_CASE("cuda: half precision learns as float32 does") {
  // How far losses are from float32's, the worst of 15 steps. PyTorch's autocast on this model, 16 seeds: median 0.08 % and at most 0.28 %
  // in bfloat16, 0.015 % and 0.09 % in float16. A seed with an unstable step may be far off, so the median of five counts.
  for (const auto& [dtype, limit] : {std::pair{DType::bfloat16, 0.002}, {DType::float16, 0.0005}}) {
    CAPTURE(to_text(dtype));
    std::vector<double> differences;
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      const auto full = Training(Device::cuda(), DType::float32, "dot_product", 0, seed).losses(15);
      const auto half = Training(Device::cuda(), dtype, "dot_product", 0, seed).losses(15);
      differences.push_back(largest_difference(half, full));
      CHECK(half[14] < 0.8 * half[0]);
    }
    std::sort(differences.begin(), differences.end());
    CHECK(differences[2] < limit);
    CHECK(differences[4] < 0.005);
  }
}
