#include "lm_settings.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>

#include "lm_main.h"
#include "weft/core/error.h"
#include "weft/core/spec.h"
#include "weft/core/threads.h"
#include "weft/train/files.h"
#include "weft/train/utf8.h"

namespace weft::programs {
namespace {

// Beyond these a number is a slip of the finger.
constexpr int64_t most_depth = 10000, most_accumulate = 100000;

std::string with_underscores(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// The arguments after the program's name; underscores in option names count as dashes.
std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::string& argument : arguments) {
    if (!argument.starts_with("--")) continue;
    std::replace(argument.begin(), argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size())), '_', '-');
  }
  return arguments;
}

// Parses `arguments`. False: --help was given, and printed.
bool parse(CLI::App& app, std::vector<std::string> arguments) {
  std::reverse(arguments.begin(), arguments.end());  // the order that CLI11 wants
  try {
    app.parse(arguments);
    return true;
  } catch (const CLI::CallForHelp&) {
    say(app.help());
    return false;
  } catch (const CLI::ExtrasError&) {
    const std::string unknown = app.remaining().front();
    std::vector<std::string> known;
    for (const CLI::Option* option : app.get_options()) known.push_back(option->get_name());
    fail("unknown argument {}; {}", unknown, suggest(unknown, known));
  } catch (const CLI::ArgumentMismatch& error) {
    // The only mismatch that a user of these options can make besides a value that is missing.
    for (const CLI::Option* option : app.get_options()) {
      WEFT_CHECK(option->count() <= 1, "{} is given {} times; give it once", option->get_name(), option->count());
    }
    fail("{}; --help lists all settings", error.what());
  } catch (const CLI::ParseError& error) {
    fail("{}; --help lists all settings", error.what());
  }
}

// Numbers are read here, in one way: CLI11 takes 010 for 8 and turns what is out of range into the nearest number that is not.
template <class T>
CLI::Option* add_option(CLI::App& app, const std::string& name, T& value, const char* help) {
  const auto read = [name, &value](const std::string& text) {
    if constexpr (std::is_same_v<T, std::string>) {
      value = text;
    } else {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      WEFT_CHECK(error == std::errc() && end == text.data() + text.size(), "{} expects {}, got \"{}\"", name,
                 std::is_integral_v<T> ? "an integer" : "a number", text);
    }
  };
  const std::string shown = format("{}", value);
  const char* kind = std::is_same_v<T, std::string> ? "TEXT" : std::is_integral_v<T> ? "INT" : "FLOAT";
  return app.add_option_function<std::string>(name, read, help)->default_str(shown)->type_name(kind);
}

bool parse_over(TrainCommand& command, const std::vector<std::string>& arguments) {
  CLI::App app("Trains a language model on a text.", "train_lm");
  app.get_formatter()->column_width(36);
  command.settings.visit([&](const char* group, const char* name, auto& value, const char* help) {
    add_option(app, std::string("--") + name, value, help)->group(group);
  });
  app.add_flag("--resume", command.resume, "go on with the run in the folder, where it stopped")->group("Data");
  app.add_flag("--overwrite", command.overwrite, "replace a run that is in the folder")->group("Data");
  return parse(app, arguments);
}

}  // namespace

const std::vector<std::string> fixed_settings = {"tokenizer", "val_fraction", "model", "attention", "dim", "depth",
                                                 "heads",     "context",      "dtype", "optimizer", "ema", "seed"};

void check(const TrainSettings& s, const std::string& where) {
  const auto at_least = [&](const char* name, int64_t value, int64_t least) {
    WEFT_CHECK(value >= least, "{}--{} must be at least {}, got {}", where, name, least, value);
  };
  at_least("steps", s.steps, 0), at_least("batch", s.batch, 1), at_least("accumulate", s.accumulate, 1), at_least("warmup", s.warmup, 0);
  at_least("dim", s.dim, 1), at_least("depth", s.depth, 1), at_least("heads", s.heads, 1), at_least("context", s.context, 1);
  at_least("log-every", s.log_every, 1), at_least("eval-every", s.eval_every, 0), at_least("eval-batches", s.eval_batches, 0);
  at_least("checkpoint-every", s.checkpoint_every, 0), at_least("sample", s.sample, 0), at_least("threads", s.threads, 0);
  at_least("seed", s.seed, 0);
  const auto at_most = [&](const char* name, int64_t value, int64_t most) {
    WEFT_CHECK(value <= most, "{}--{} must be at most {}, got {}", where, name, most, value);
  };
  at_most("depth", s.depth, most_depth), at_most("accumulate", s.accumulate, most_accumulate), at_most("threads", s.threads, most_threads);
  WEFT_CHECK(!s.run.empty(), "{}--run is empty: give the folder of the run", where);
  TrainSettings(s).visit([&]<class T>(const char*, const char* name, T& value, const char*) {
    if constexpr (std::is_same_v<T, std::string>) {  // config.json is UTF-8
      WEFT_CHECK(find_invalid_utf8(value) == value.size(), "{}--{} is not valid UTF-8", where, name);
    }
  });
  const auto within = [&](const char* name, double value, double low, double high, const char* range) {
    WEFT_CHECK(value >= low && value < high, "{}--{} must be {}, got {}", where, name, range, value);
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  within("lr", s.lr, 0, infinity, "0 or positive, and finite"), within("min-lr", s.min_lr, 0, infinity, "0 or positive, and finite");
  within("weight-decay", s.weight_decay, 0, infinity, "0 or positive, and finite"),
      within("clip", s.clip, 0, infinity, "0 or positive, and finite");
  within("dropout", s.dropout, 0, 1, "at least 0 and below 1"), within("val-fraction", s.val_fraction, 0, 1, "at least 0 and below 1");
  within("beta1", s.beta1, 0, 1, "at least 0 and below 1"), within("beta2", s.beta2, 0, 1, "at least 0 and below 1");
  within("momentum", s.momentum, 0, 1, "at least 0 and below 1"), within("ema", s.ema, 0, 1, "at least 0 and below 1");
  const auto one_of = [&](const char* name, const std::string& value, const std::vector<std::string>& known) {
    WEFT_CHECK(std::find(known.begin(), known.end(), value) != known.end(), "{}--{} cannot be \"{}\"; {}", where, name, value,
               suggest(value, known));
  };
  one_of("optimizer", s.optimizer, {"adamw", "adam", "sgd"});
  one_of("dtype", s.dtype, {"float32", "float64", "bfloat16", "float16"});
  one_of("schedule", s.schedule, {"cosine", "linear", "inverse_sqrt", "constant"});
}

DType model_dtype(const std::string& name) {
  for (DType dtype : {DType::float64, DType::bfloat16, DType::float16}) {
    if (name == name_of(dtype)) return dtype;
  }
  return DType::float32;
}

TrainCommand parse_train(int argc, char** argv) {
  const std::vector<std::string> arguments = arguments_of(argc, argv);
  TrainCommand command;
  command.program = argv[0];
  command.help = !parse_over(command, arguments);
  if (command.help) return command;
  if (command.resume) {
    WEFT_CHECK(!command.overwrite, "--resume goes on with the run in the folder, --overwrite replaces it: give one of them");
    const std::filesystem::path config = std::filesystem::path(command.settings.run) / "config.json";
    WEFT_CHECK(!command.settings.run.empty(), "--run is empty: give the folder of the run");
    const bool has_checkpoints = std::filesystem::exists(config.parent_path() / "checkpoint");
    WEFT_CHECK(std::filesystem::exists(config), "resume: there is no run in {} ({} is missing); {}", command.settings.run, config.string(),
               has_checkpoints ? "put the file back, or replace the run: --data TEXT --overwrite instead of --resume"
                               : "start one: --data TEXT instead of --resume");
    const std::string folder = command.settings.run;
    const TrainSettings before = command.settings = from_settings(read_settings(config), config.string());
    check(before, config.string() + ": ");
    parse_over(command, arguments);
    command.settings.run = folder;
    check_same_settings("resume: " + folder, to_settings(before), to_settings(command.settings), fixed_settings);
  }
  WEFT_CHECK(!command.settings.data.empty(), "--data is missing: the text to learn from, as it is or .gz");
  check(command.settings);
  WEFT_CHECK(size_of(model_dtype(command.settings.dtype)) > 2 || command.settings.device.starts_with("cuda"),
             "{} is computed with on CUDA only: {}", command.settings.dtype,
             command.resume ? "this run goes on with --device cuda" : "add --device cuda, or take --dtype float32");
  command.settings.data = std::filesystem::absolute(command.settings.data).string();  // --resume may be called from another folder
  return command;
}

Settings to_settings(TrainSettings settings) {
  Settings result;
  settings.visit([&](const char*, const char* name, auto& value, const char*) { result.set(with_underscores(name), Json(value)); });
  return result;
}

TrainSettings from_settings(const Settings& settings, const std::string& where) {
  TrainSettings result;
  std::vector<std::string> known;
  result.visit([&](const char*, const char* name, auto&, const char*) { known.push_back(with_underscores(name)); });
  for (const JsonMember& member : settings.members()) {
    WEFT_CHECK(std::find(known.begin(), known.end(), member.name) != known.end(), "{}: unknown setting \"{}\"; {}", where, member.name,
               suggest(member.name, known));
  }
  result.visit([&]<class T>(const char*, const char* name, T& value, const char*) {
    const std::string key = with_underscores(name);
    if (settings.find(key) == nullptr) return;
    if constexpr (std::is_same_v<T, std::string>) {
      value = settings.text(key);
    } else if constexpr (std::is_same_v<T, double>) {
      value = settings.number(key);
    } else {
      value = settings.integer(key);
    }
  });
  return result;
}

std::map<std::string, std::string> weights_metadata(const TrainSettings& settings) {
  return {{"model", settings.model}, {"attention", settings.attention}, {"heads", std::to_string(settings.heads)}};
}

std::vector<int64_t> start_tokens(const Tokenizer& tokenizer) {
  try {
    return tokenizer.encode("\n");
  } catch (const Error&) {
    return {0};
  }
}

GenerateSettings parse_generate(int argc, char** argv) {
  GenerateSettings s;
  CLI::App app("Continues a text with a model that train_lm has trained.", "generate_lm");
  app.get_formatter()->column_width(36);
  const auto add = [&](const char* name, auto& value, const char* help) { add_option(app, name, value, help); };
  add("--run", s.run, "folder of the run");
  add("--prompt", s.prompt, "text to continue; empty: the model starts after a line end");
  add("--tokens", s.tokens, "tokens to generate");
  add("--temperature", s.temperature, "above 1: more daring; below 1: more careful; 0: always the likeliest token");
  add("--top-k", s.top_k, "choose among the K likeliest tokens; 0: among all");
  add("--top-p", s.top_p, "choose among the likeliest tokens that together have probability P");
  add("--min-p", s.min_p, "choose among tokens at least P times as likely as the likeliest");
  add("--seed", s.seed, "another seed, another text");
  add("--threads", s.threads, "threads; 0: one per core");
  add("--device", s.device, "cpu, cuda or cuda:N");
  s.help = !parse(app, arguments_of(argc, argv));
  WEFT_CHECK(s.tokens >= 0 && s.seed >= 0 && s.threads >= 0, "--tokens, --seed and --threads must not be negative, got {}, {} and {}",
             s.tokens, s.seed, s.threads);
  WEFT_CHECK(s.threads <= most_threads, "--threads must be at most {}, got {}", most_threads, s.threads);
  WEFT_CHECK(s.help || !s.run.empty(), "--run is empty: give the folder of the run");
  return s;
}

}  // namespace weft::programs
