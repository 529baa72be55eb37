// safetensors files: named tensors that Python's `safetensors` package reads and writes too.
//
//     8 bytes     n, the length of the header, little-endian
//     n bytes     JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"key": "text"}}
//     the rest    the elements, row-major; the offsets count from here, and together they cover every byte once
//
// Files written here have the data aligned to 8 bytes, and wider elements first, so that every tensor can be used where it is mapped.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "weft/core/tensor.h"

namespace weft {

/// Named tensors in order, and the metadata that belongs to them.
struct TensorMap {
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::map<std::string, std::string> metadata;

  /// nullptr if there is none of that name.
  const Tensor* find(const std::string& name) const;
  /// An error if there is none of that name.
  const Tensor& at(const std::string& name) const;
};

/// How names are ordered in the header.
enum class NameOrder { given, sorted };

/// Writes the file atomically (see files.h). Tensors of any dtype and device; names must be unique, valid UTF-8 and not "__metadata__".
void save_safetensors(const std::filesystem::path& path, const TensorMap& map, NameOrder order = NameOrder::given);

/// Maps the file and checks the whole header before any tensor is made; every inconsistency is an error that names the file, the tensor
/// and the numbers. Tensors come in the order of the header, on the CPU. They share the mapping where their elements are aligned and are
/// copies where not; changing one in place changes neither the file nor the others.
/// dtypes: F32, F64, F16, BF16, I64, BOOL; others are an error that names them.
TensorMap load_safetensors(const std::filesystem::path& path);

}  // namespace weft
