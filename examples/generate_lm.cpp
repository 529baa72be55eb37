// generate_lm: continues a text with a model that train_lm has trained; the text goes to standard output as it is made.
#include <cstdio>
#include <filesystem>

#include "lm_main.h"
#include "lm_settings.h"
#include "weft/core/device.h"
#include "weft/core/error.h"
#include "weft/nn/module.h"
#include "weft/train/files.h"
#include "weft/train/generate.h"
#include "weft/train/safetensors.h"
#include "weft/train/tokenizer.h"

namespace weft::programs {
namespace {

LanguageModel load_model(const std::filesystem::path& run, const Tokenizer& tokenizer, Device device) {
  const std::filesystem::path config = run / "config.json";
  const TrainSettings s = from_settings(read_settings(config), config.string());
  check(s, config.string() + ": ");
  const std::filesystem::path file = run / "model.safetensors";
  const TensorMap weights = load_safetensors(file);
  for (const auto& [name, value] : weights_metadata(s)) {
    const auto found = weights.metadata.find(name);  // files of older versions have less
    WEFT_CHECK(found == weights.metadata.end() || found->second == value, "{}: {} is {}, but the weights in {} are of a model with {}",
               config.string(), name, value, file.string(), found->second);
  }
  LanguageModel model = make_language_model(s.model, s.model_settings(tokenizer.vocab_size()));
  const DType trained = model_dtype(s.dtype);
  convert(model, size_of(trained) == 2 && !device.is_cuda() ? DType::float32 : trained, device);
  try {
    load_state_dict(model, weights.tensors);
  } catch (const Error& error) {
    fail("{} does not fit the model of {}: {}", file.string(), config.string(), error.what());
  }
  return model;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void generate_text(const GenerateSettings& s) {
  if (s.threads > 0) set_num_threads(static_cast<int>(s.threads));
  const Device device = parse_device(s.device);
  set_default_device(device);
  const std::filesystem::path run = s.run;
  WEFT_CHECK(std::filesystem::exists(run / "config.json"), "there is no run in {} (config.json is missing); train_lm makes one", s.run);
  WEFT_CHECK(std::filesystem::exists(run / "model.safetensors"), "the run in {} has saved no weights yet (model.safetensors is missing)",
             s.run);
  std::fputs(format("device {}: {}\n", s.device, device_description(device)).c_str(), stderr);

  const Tokenizer tokenizer = Tokenizer::load(run);
  LanguageModel model = load_model(run, tokenizer, device);
  const std::vector<int64_t> prompt = s.prompt.empty() ? start_tokens(tokenizer) : tokenizer.encode(s.prompt);
  print(s.prompt);

  Generator generator(static_cast<uint64_t>(s.seed));
  StreamDecoder decoder(tokenizer);
  generate(model, {prompt},
           {.tokens = s.tokens,
            .sampling = {.temperature = s.temperature, .top_k = s.top_k, .top_p = s.top_p, .min_p = s.min_p},
            .generator = &generator,
            .on_tokens = [&](const std::vector<int64_t>& tokens) {
              print(decoder.push(tokens[0]));
              return std::ferror(stdout) == 0;
            }});
  print(decoder.finish() + "\n");
}

}  // namespace
}  // namespace weft::programs

int main(int argc, char** argv) {
  return weft::programs::run_main("generate_lm", [&] {
    const auto settings = weft::programs::parse_generate(argc, argv);
    if (!settings.help) weft::programs::generate_text(settings);
    return 0;
  });
}
