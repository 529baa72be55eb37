// That the frame finds what is wrong: cases that pass, each with one thing changed.
#include "golden.h"

#include <doctest/doctest.h>

#include <cmath>

using namespace weft;
using golden::Case;
using golden::Failure;

namespace {

Case load(const std::string& name) { return golden::read_case(WEFT_TEST_DATA "/" + name + ".safetensors"); }

// A copy of a tensor of the case, free to change.
double* elements(Case& file, const std::string& name) {
  Tensor& tensor = file.tensors.at(name);
  tensor = clone(tensor);
  return tensor.data<double>();
}

std::vector<Failure> run(const Case& file) { return golden::run(file, Device::cpu()); }

std::string error_of(const Case& file) {
  const std::vector<Failure> failures = run(file);
  return failures.size() == 1 && failures[0].tensor.empty() ? failures[0].text : "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a wrong output, gradient of an input, gradient of a parameter: each is found and named") {
  CHECK(run(load("attentions/mhsa")).empty());
  for (const char* name : {"out.y", "din.x", "dparam.w_k.weight"}) {
    Case file = load("attentions/mhsa");
    elements(file, name)[3] += 1e-7;
    const std::vector<Failure> failures = run(file);
    REQUIRE(failures.size() == 1);
    CHECK(failures[0].tensor == name);
    CHECK(failures[0].difference > 1e-8);
    CHECK(contains(failures[0].text, "largest difference"));
    CHECK(contains(failures[0].text, "tolerance 1e-09"));
  }
}

TEST_CASE("differences are relative to 1 + |value|, and the tolerance is the file's") {
  Case file = load("torch/linear");
  elements(file, "out.y")[0] += 1e-10;
  CHECK(run(file).empty());
  file.tolerance = 1e-11;
  CHECK_FALSE(run(file).empty());
}

TEST_CASE("NaN, infinity and another shape are differences") {
  for (double value : {std::nan(""), static_cast<double>(INFINITY)}) {
    Case file = load("torch/linear");
    elements(file, "out.y")[0] = value;
    REQUIRE(run(file).size() == 1);
  }
  Case file = load("torch/linear");
  file.tensors["out.y"] = zeros({2, 7, 5}, {.dtype = DType::float64});
  REQUIRE(run(file).size() == 1);
  CHECK(contains(run(file)[0].text, "expected float64 [2, 7, 5], got float64 [2, 7, 6]"));
}

TEST_CASE("outputs, parameters and gradients that are missing on either side") {
  Case file = load("torch/linear");
  file.tensors["out.z"] = zeros({2}, {.dtype = DType::float64});
  REQUIRE(run(file).size() == 1);
  CHECK(contains(run(file)[0].text, "the adapter gives no such output"));

  file = load("torch/linear");
  file.tensors["dparam.gain"] = zeros({2}, {.dtype = DType::float64});
  REQUIRE(run(file).size() == 1);
  CHECK(contains(run(file)[0].text, "there is no such parameter"));

  file = load("torch/linear");
  file.tensors.erase("param.bias");
  CHECK(contains(error_of(file), "missing: bias"));

  file = load("torch/linear");  // the original gives no gradient where ours does
  file.tensors.erase("dparam.bias");
  REQUIRE(run(file).size() == 1);
  CHECK(run(file)[0].tensor == "dparam.bias");
}

TEST_CASE("unknown models, options and call options are errors") {
  Case file = load("torch/linear");
  file.model = "torch/Lineer";
  CHECK(contains(error_of(file), "no adapter for model torch/Lineer"));
  file = load("torch/linear");
  file.options["widht"] = 3;
  CHECK(contains(error_of(file), "unknown option widht = 3"));
  file = load("attentions/mhsa");
  file.call["causal"] = true;
  CHECK(contains(error_of(file), "unknown option causal = true"));
  file = load("attentions/mhsa");
  file.options["num_heads"] = 2.5;
  CHECK(contains(error_of(file), "num_heads must be an integer, got 2.5"));
  file = load("attentions/mhsa");
  file.options.erase("num_heads");
  CHECK(contains(error_of(file), "num_heads must be given"));
  file = load("attentions/mhsa");
  file.options["num_heads"] = 3;
  CHECK(contains(error_of(file), "d_model (8) must be divisible by num_heads (3)"));
}

TEST_CASE("options may stand with their defaults, null means not given") {
  Case file = load("attentions/mhsa");
  file.options["input_dim"] = Json();
  CHECK(run(file).empty());
  for (const auto& [name, value] : golden::Values{{"dropout", 0.1}, {"bias", false}, {"temperature", 1.0}, {"rope", false}}) {
    file.options[name] = value;
  }
  CHECK(run(file).empty());
}

TEST_CASE("a training run: losses, norms and final values are compared") {
  CHECK(run(load("torch/train_adamw_clip")).empty());
  for (const char* name : {"out.losses", "out.grad_norms", "final.0.weight"}) {
    Case file = load("torch/train_adamw_clip");
    elements(file, name)[2] += 1e-6;
    REQUIRE(run(file).size() == 1);
    CHECK(run(file)[0].tensor == name);
  }
  Case file = load("torch/train_adamw_clip");
  file.optimizer["momentum"] = 0.9;
  CHECK(contains(error_of(file), "optimizer: unknown option momentum = 0.9"));
  file = load("torch/train_adamw_clip");
  file.optimizer["name"] = "Adagrad";
  CHECK(contains(error_of(file), "expected Adam, AdamW or SGD, got Adagrad"));
}

TEST_CASE("a file that is no golden case is an error") { CHECK_THROWS_AS(load("attentions/no_such_case"), Error); }
