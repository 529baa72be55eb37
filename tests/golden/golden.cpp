#include "golden.h"

#include <cmath>

#include "weft/autograd/ops.h"
#include "weft/train/safetensors.h"

namespace weft::golden {
namespace {

std::string text_of(const std::map<std::string, std::string>& metadata, const std::string& key, const std::string& fallback) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? fallback : found->second;
}

Values values_of(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const Json parsed = parse_json(text_of(metadata, key, "{}"), key);
  WEFT_CHECK(parsed.as_object() != nullptr, "{} must be a JSON object, got {}", key, dump(parsed));
  Values values;
  for (const JsonMember& member : *parsed.as_object()) values.emplace(member.name, member.value);
  return values;
}

bool is_prefix(const std::string& prefix, const std::string& name) { return name.compare(0, prefix.size(), prefix) == 0; }

}  // namespace

// ---- files --------------------------------------------------------------------------------------------------------------------------

Tensors Case::group(const std::string& prefix) const {
  Tensors found;
  for (const auto& [name, tensor] : tensors) {
    if (is_prefix(prefix + ".", name)) found[name.substr(prefix.size() + 1)] = tensor;
  }
  return found;
}

Case read_case(const std::string& path) {
  const TensorMap file = load_safetensors(path);
  Case one;
  one.path = path;
  one.kind = text_of(file.metadata, "kind", "");
  one.model = text_of(file.metadata, "model", "");
  one.note = text_of(file.metadata, "note", "");
  one.options = values_of(file.metadata, "options");
  one.call = values_of(file.metadata, "call");
  one.optimizer = values_of(file.metadata, "optimizer");
  const std::optional<double> tolerance = parse_json(text_of(file.metadata, "tolerance", "0"), "tolerance").as_number();
  WEFT_CHECK(tolerance, "tolerance must be a number, got {}", text_of(file.metadata, "tolerance", "0"));
  one.tolerance = *tolerance;
  for (const auto& [name, tensor] : file.tensors) one.tensors[name] = tensor;
  WEFT_CHECK(!one.model.empty() && (one.kind == "case" || one.kind == "values" || one.kind == "trajectory"),
             "no golden case: the metadata needs a model, and kind case, values or trajectory; got \"{}\", \"{}\"", one.model, one.kind);
  return one;
}

const Tensor& need(const Tensors& inputs, const std::string& name) {
  const auto found = inputs.find(name);
  WEFT_CHECK(found != inputs.end(), "the file has no input {}", name);
  return found->second;
}

Tensor get(const Tensors& inputs, const std::string& name) {
  const auto found = inputs.find(name);
  return found == inputs.end() ? Tensor() : found->second;
}

// ---- options --------------------------------------------------------------------------------------------------------------------------

const Json* Arguments::find(const std::string& name) {
  known_.insert(name);
  const auto found = values_.find(name);
  return found == values_.end() || found->second.is_null() ? nullptr : &found->second;
}

Json Arguments::json(const std::string& name) {
  const Json* value = find(name);
  WEFT_CHECK(value != nullptr, "{}: {} must be given", what_, name);
  return *value;
}

int64_t Arguments::integer(const std::string& name) {
  const Json value = json(name);
  const std::optional<double> number = value.as_number();
  WEFT_CHECK(number && *number == std::floor(*number), "{}: {} must be an integer, got {}", what_, name, dump(value));
  return value.as_integer().value_or(static_cast<int64_t>(*number));
}

double Arguments::number(const std::string& name) {
  const Json value = json(name);
  WEFT_CHECK(value.as_number(), "{}: {} must be a number, got {}", what_, name, dump(value));
  return *value.as_number();
}

bool Arguments::flag(const std::string& name, bool fallback) {
  if (!has(name)) return fallback;
  const Json value = json(name);
  WEFT_CHECK(value.as_flag(), "{}: {} must be true or false, got {}", what_, name, dump(value));
  return *value.as_flag();
}

std::string Arguments::text(const std::string& name) {
  const Json value = json(name);
  WEFT_CHECK(value.as_text() != nullptr, "{}: {} must be text, got {}", what_, name, dump(value));
  return *value.as_text();
}

std::vector<double> Arguments::numbers(const std::string& name) {
  const Json value = json(name);
  if (value.as_number()) return {*value.as_number()};
  WEFT_CHECK(value.as_array() != nullptr, "{}: {} must be a number or a list, got {}", what_, name, dump(value));
  std::vector<double> numbers;
  for (const Json& element : *value.as_array()) {
    WEFT_CHECK(element.as_number(), "{}: {} must be a list of numbers, got {}", what_, name, dump(value));
    numbers.push_back(*element.as_number());
  }
  return numbers;
}

std::vector<int64_t> Arguments::integers(const std::string& name) {
  std::vector<int64_t> values;
  for (double value : numbers(name)) values.push_back(static_cast<int64_t>(value));
  return values;
}

void Arguments::expect(const std::string& name, const Json& value) {
  const Json* given = find(name);
  WEFT_CHECK(given == nullptr || *given == value, "{}: {} must be {}, got {}", what_, name, dump(value), dump(*given));
}

void Arguments::check_all_used() const {
  for (const auto& [name, value] : values_) {
    WEFT_CHECK(known_.contains(name), "{}: unknown option {} = {}", what_, name, dump(value));
  }
}

const Adapters& adapters() {
  static const Adapters all = [] {
    Adapters table;
    add_torch(table);
    add_attentions(table);
    return table;
  }();
  return all;
}

}  // namespace weft::golden
