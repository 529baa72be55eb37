// weft_golden PATH...: runs golden cases and says which tensors differ. README.md beside this file describes the cases.
#include <fnmatch.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "golden.h"

namespace {

namespace fs = std::filesystem;
using namespace weft;

const char* const usage =
    "usage: weft_golden [--device cpu|cuda] [--pending FILE] [--check-pending] PATH...\n"
    "Runs the golden cases (.safetensors) in the files and folders given, folders recursively. A line for each case that fails; the last\n"
    "line is \"N passed, N failed\"; the exit code is 0 only if all passed.\n"
    "  --verbose       every tensor that differs, not only the one that is furthest off\n"
    "  --device        where the cases run (cpu)\n"
    "  --pending FILE  skips the cases whose FOLDER/NAME matches a pattern in FILE (one a line, # starts a comment)\n"
    "  --check-pending runs the pending cases instead: each pattern must match a file, and each case must still fail\n";

struct Settings {
  Device device = Device::cpu();
  std::vector<std::string> pending;
  bool check_pending = false;
  bool verbose = false;
  std::vector<std::string> paths;
};

std::vector<std::string> read_patterns(const std::string& path) {
  WEFT_CHECK(!fs::is_directory(path) && !path.ends_with(".safetensors"), "--pending {}: expected a text file of patterns, see --help",
             path);
  std::ifstream in(path);
  WEFT_CHECK(in.good(), "cannot read {}", path);
  std::vector<std::string> patterns;
  for (std::string line; std::getline(in, line);) {
    line = line.substr(0, line.find('#'));
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (!line.empty()) patterns.push_back(line);
  }
  return patterns;
}

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto value = [&] {
      WEFT_CHECK(i + 1 < argc, "{} needs a value\n{}", argument, usage);
      return std::string(argv[++i]);
    };
    if (argument == "--help" || argument == "-h") {
      std::cout << usage;
      std::exit(0);
    } else if (argument == "--device") {
      settings.device = parse_device(value());
      set_default_device(settings.device);
    } else if (argument == "--pending") {
      settings.pending = read_patterns(value());
    } else if (argument == "--verbose" || argument == "-v") {
      settings.verbose = true;
    } else if (argument == "--check-pending") {
      settings.check_pending = true;
    } else {
      WEFT_CHECK(argument.empty() || argument[0] != '-', "unknown option {}\n{}", argument, usage);
      settings.paths.push_back(argument);
    }
  }
  WEFT_CHECK(!settings.paths.empty(), "no path given\n{}", usage);
  WEFT_CHECK(!settings.check_pending || !settings.pending.empty(), "--check-pending checks the list of --pending FILE, and there is none");
  return settings;
}

// FOLDER/NAME, as patterns see it.
std::string case_name(const fs::path& file) {
  return fs::absolute(file).lexically_normal().parent_path().filename().string() + "/" + file.stem().string();
}

std::vector<fs::path> find_cases(const std::string& path) {
  std::vector<fs::path> files;
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() && entry.path().extension() == ".safetensors") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
  } else {
    WEFT_CHECK(fs::exists(path), "\"{}\": no such file or folder", path);
    files.push_back(path);
  }
  WEFT_CHECK(!files.empty(), "no .safetensors file in {}", path);
  return files;
}

std::vector<golden::Failure> run_file(const fs::path& file, Device device) {
  try {
    return golden::run(golden::read_case(file.string()), device);
  } catch (const std::exception& error) {
    return {{.text = error.what()}};
  }
}

class Tally {
 public:
  explicit Tally(bool verbose) : verbose_(verbose) {}
  void pass() { ++passed_; }
  // One line: the tensor that is furthest off, and how many more there are; every tensor when verbose.
  void fail(const std::string& what, const std::vector<golden::Failure>& failures) {
    ++failed_;
    for (const golden::Failure& failure : failures) without_adapter_ += failure.text.starts_with("no adapter ") ? 1 : 0;
    const auto worst =
        std::max_element(failures.begin(), failures.end(), [](const auto& a, const auto& b) { return a.difference < b.difference; });
    const size_t others = failures.size() - 1;
    print(what, *worst, others == 0 || verbose_ ? "" : " (and " + std::to_string(others) + " more tensors, see --verbose)");
    if (!verbose_) return;
    for (const golden::Failure& failure : failures) {
      if (&failure != &*worst) print(what, failure, "");
    }
  }
  int finish() const {
    if (without_adapter_ > 0) {
      std::cout << without_adapter_ << " of the failed cases have no adapter yet: `--pending FILE` leaves out those that a list names\n";
    }
    std::cout << passed_ << " passed, " << failed_ << " failed" << std::endl;
    return failed_ == 0 ? 0 : 1;
  }

 private:
  static void print(const std::string& what, const golden::Failure& failure, const std::string& more) {
    std::cout << what << ": " << (failure.tensor.empty() ? "error" : failure.tensor) << ": " << failure.text << more << '\n';
  }

  bool verbose_;
  int64_t passed_ = 0, failed_ = 0, without_adapter_ = 0;
};

int run_all(const Settings& settings) {
  Tally tally(settings.verbose);
  std::vector<bool> used(settings.pending.size());
  for (const std::string& path : settings.paths) {
    std::vector<fs::path> files;
    try {
      files = find_cases(path);
    } catch (const std::exception& error) {
      tally.fail(path, {{.text = error.what()}});
    }
    for (const fs::path& file : files) {
      bool pending = false;
      for (size_t i = 0; i < settings.pending.size(); ++i) {
        if (fnmatch(settings.pending[i].c_str(), case_name(file).c_str(), 0) != 0) continue;
        pending = used[i] = true;
      }
      if (pending != settings.check_pending) continue;
      const std::vector<golden::Failure> failures = run_file(file, settings.device);
      if (settings.check_pending && failures.empty()) {
        tally.fail(file.string(), {{.text = "is listed as pending but passes: remove it from the list"}});
      } else if (settings.check_pending || failures.empty()) {
        tally.pass();
      } else {
        tally.fail(file.string(), failures);
      }
    }
  }
  for (size_t i = 0; settings.check_pending && i < used.size(); ++i) {
    if (!used[i]) tally.fail(settings.pending[i], {{.text = "no golden case matches this pattern of the pending list"}});
  }
  return tally.finish();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_all(parse(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "weft_golden: " << error.what() << '\n';
    return 2;
  }
}
