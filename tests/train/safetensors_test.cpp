#include "weft/train/safetensors.h"

#include <cstring>

#include "train/temporary_folder.h"
#include "weft/train/files.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

std::string with_header(const std::string& header, const std::string& data = "") {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

// A tensor of one dtype whose bytes are all different (bool: alternating).
Tensor sample(DType dtype, const Shape& shape) {
  Tensor x = empty(shape, {.dtype = dtype});
  auto* bytes = static_cast<unsigned char*>(x.raw());
  for (int64_t i = 0; i < x.bytes(); ++i) bytes[i] = static_cast<unsigned char>(dtype == DType::boolean ? i % 2 : i * 37 + 1);
  return x;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}

TensorMap every_kind() {
  TensorMap map;
  const DType dtypes[] = {DType::boolean, DType::float16, DType::float32, DType::int64, DType::bfloat16, DType::float64};
  for (DType dtype : dtypes) {
    for (const Shape& shape : {Shape{}, Shape{7}, Shape{3, 0, 5}, Shape{1, 33}, Shape{1, 2, 1, 2, 1, 2, 1, 2}}) {
      map.tensors.emplace_back(format("{}.{}", dtype, shape), sample(dtype, shape));
    }
  }
  map.tensors.emplace_back("näme \"quoted\"\n\\", sample(DType::float32, {2}));
  map.tensors.emplace_back("", sample(DType::float32, {2}));
  map.metadata = {{"format", "pt"}, {"empty", ""}, {"text", "line\nπ \"q\" \x01"}};
  return map;
}

TEST_CASE("safetensors: every dtype, rank and name comes back, in order") {
  TemporaryFolder folder;
  const TensorMap map = every_kind();
  save_safetensors(folder / "all.safetensors", map);
  const TensorMap loaded = load_safetensors(folder / "all.safetensors");
  CHECK(loaded.metadata == map.metadata);
  REQUIRE(loaded.tensors.size() == map.tensors.size());
  for (size_t i = 0; i < map.tensors.size(); ++i) {
    CAPTURE(map.tensors[i].first);
    CHECK(loaded.tensors[i].first == map.tensors[i].first);
    CHECK(same_bits(loaded.tensors[i].second, map.tensors[i].second));
  }

  save_safetensors(folder / "sorted.safetensors", map, NameOrder::sorted);
  const TensorMap sorted = load_safetensors(folder / "sorted.safetensors");
  REQUIRE(sorted.tensors.size() == map.tensors.size());
  for (size_t i = 0; i < sorted.tensors.size(); ++i) {
    if (i > 0) CHECK(sorted.tensors[i - 1].first < sorted.tensors[i].first);
    CHECK(same_bits(sorted.tensors[i].second, map.at(sorted.tensors[i].first)));
  }
  CHECK(folder.entries() == 2);
}

TEST_CASE("safetensors: no tensors at all") {
  TemporaryFolder folder;
  save_safetensors(folder / "none.safetensors", {});
  const TensorMap loaded = load_safetensors(folder / "none.safetensors");
  CHECK(loaded.tensors.empty());
  CHECK(loaded.metadata.empty());
}

TEST_CASE("safetensors: tensors share the mapping, and writing to them changes nothing else") {
  TemporaryFolder folder;
  const auto path = folder / "w.safetensors";
  const int64_t n = 10'000;
  save_safetensors(path, {.tensors = {{"a", ones({n})}, {"b", ones({n})}}, .metadata = {}});
  const int64_t before = bytes_in_use();
  TensorMap first = load_safetensors(path);
  CHECK(bytes_in_use() == before);  // nothing was copied
  const TensorMap second = load_safetensors(path);
  const std::string file = get(path);

  Tensor a = first.at("a"), kept;
  std::fill_n(a.data<float>(), n, 5.0F);
  a.bump_version();
  CHECK(first.at("b").version() == 0);
  CHECK(first.at("b").data<float>()[0] == 1);
  CHECK(second.at("a").data<float>()[n - 1] == 1);
  CHECK(get(path) == file);

  kept = first.at("a");
  save_safetensors(path, {.tensors = {{"a", zeros({1})}}, .metadata = {}});  // replaced while it is mapped
  first = {};
  CHECK(kept.data<float>()[n - 1] == 5);
  CHECK(second.at("b").data<float>()[n - 1] == 1);
}

TEST_CASE("safetensors: misaligned elements are copied") {
  TemporaryFolder folder;
  // Three bools, then a double at byte 3 of the data; the header itself is not padded either.
  std::string data("\1\0\1", 3);
  const double value = 2.5;
  data.append(reinterpret_cast<const char*>(&value), 8);
  put(folder / "odd.safetensors", with_header(R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[3,11]},)"
                                              R"("b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})",
                                              data));
  const TensorMap map = load_safetensors(folder / "odd.safetensors");
  CHECK(map.at("d").item() == 2.5);
  CHECK(map.at("b").to_vector<bool>() == std::vector<bool>{true, false, true});
  CHECK(reinterpret_cast<uintptr_t>(map.at("d").raw()) % 8 == 0);
  CHECK(map.tensors[0].first == "d");
}

TEST_CASE("safetensors: files written here are aligned and padded") {
  TemporaryFolder folder;
  save_safetensors(folder / "f", {.tensors = {{"b", sample(DType::boolean, {3})}, {"d", sample(DType::float64, {2})}}, .metadata = {}});
  const std::string file = get(folder / "f");
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  CHECK(length % 8 == 0);
  CHECK(file[8] == '{');
  CHECK(file.size() == 8 + length + 16 + 3);
}

TEST_CASE("safetensors: every inconsistency of a header is an error that says what is wrong") {
  TemporaryFolder folder;
  const auto path = folder / "x";
  const auto error = [&](const std::string& content) {
    put(path, content);
    return error_of(folder, [&] { load_safetensors(path); });
  };
  const auto header = [&](const std::string& text, size_t data_bytes) { return error(with_header(text, std::string(data_bytes, '\0'))); };
  const auto tensor = [&](const std::string& fields, size_t data_bytes) { return header("{\"w\":{" + fields + "}}", data_bytes); };

  CHECK(error_of(folder, [&] { load_safetensors(folder / "missing"); }) == "missing: cannot open: No such file or directory");
  CHECK(error("") == "x: not a safetensors file: it has 0 bytes");
  CHECK(error("1234567") == "x: not a safetensors file: it has 7 bytes");
  CHECK(error(std::string("\3\0\0\0\0\0\0\0{}", 10)) ==
        "x: not a safetensors file: its header would take 3 bytes (the file has 10, at most 100000000 are allowed)");
  CHECK(error(std::string(8, '\xff') + "{}").find("would take 18446744073709551615 bytes") != std::string::npos);
  CHECK(header("", 0).starts_with("x: header: not valid JSON: "));
  CHECK(header("{", 0).starts_with("x: header: not valid JSON: "));
  CHECK(header("{} x", 0).starts_with("x: header: not valid JSON: "));
  CHECK(header(std::string("{}\0", 3), 0) == "x: header: not valid JSON: a zero byte at 2");
  CHECK(header("{\"\xff\":1}", 0).find("ill-formed UTF-8") != std::string::npos);
  CHECK(header("[]", 0) == "x: the header is no JSON object");
  CHECK(header("{\"a\":1,\"a\":2}", 0) == "x: header: not valid JSON: the name \"a\" stands twice in one object");
  CHECK(header(std::string(40, '[') + std::string(40, ']'), 0) == "x: header: not valid JSON: more than 32 levels");

  CHECK(header(R"({"__metadata__":[]})", 0) == "x: __metadata__ is no JSON object");
  CHECK(header(R"({"__metadata__":{"a":1}})", 0) == "x: __metadata__: \"a\" should be a text, found 1");
  CHECK(header(R"({"w":3})", 0) == "x: tensor \"w\": expected dtype, shape and data_offsets, found 3");
  CHECK(tensor(R"("dtype":"F32","shape":[1])", 4) ==
        "x: tensor \"w\": expected dtype, shape and data_offsets, found {\"dtype\": \"F32\", \"shape\": [1]}");
  CHECK(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"more":0)", 4).find("expected dtype, shape") != std::string::npos);
  CHECK(tensor(R"("dtype":"I32","shape":[1],"data_offsets":[0,4])", 4) ==
        "x: tensor \"w\": dtype \"I32\" is not supported (F32, F64, F16, BF16, I64 and BOOL are)");
  CHECK(tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,4])", 4).find("dtype 7 is not supported") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":4,"data_offsets":[0,4])", 4) == "x: tensor \"w\": shape should be a list, found 4");
  CHECK(tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])", 4) ==
        "x: tensor \"w\": 9 dimensions, at most 8 are supported");
  CHECK(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", 4) == "x: tensor \"w\": shape [-1] holds something else than sizes");
  CHECK(tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])", 4).find("something else than sizes") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])", 4).find("something else") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,0])", 0) ==
        "x: tensor \"w\": shape [4611686018427387904, 2] has more elements than fit");
  CHECK(tensor(R"("dtype":"F32","shape":[0,4611686018427387904,2],"data_offsets":[0,0])", 0).find("more elements") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])", 4) == "x: tensor \"w\": data_offsets should be [begin, end], found [0]");
  CHECK(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])", 4).find("should be [begin, end]") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])", 4).find("should be [begin, end]") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":[1],"data_offsets":{"a":0,"b":4})", 4).find("should be [begin, end]") != std::string::npos);
  CHECK(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 4) ==
        "x: tensor \"w\": data_offsets [0, 8] reach beyond the 4 bytes of data");
  CHECK(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", 4) ==
        "x: tensor \"w\": float32 [2] takes 8 bytes, data_offsets [0, 4] hold 4");
  CHECK(header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12) ==
        "x: tensor \"b\": data_offsets [4, 12] overlap with another tensor, which ends at 8");
  CHECK(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", 12) ==
        "x: bytes 4 to 8 of the data belong to no tensor");
  CHECK(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])", 9) ==
        "x: 5 bytes follow the last tensor; the file was not written completely or is damaged");
  CHECK(error(with_header(R"({"m":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\1\7")) ==
        "x: tensor \"m\": element 1 is 7, a BOOL is 0 or 1");
}

TEST_CASE("safetensors: what cannot be saved is refused before the file is touched") {
  TemporaryFolder folder;
  const auto path = folder / "x";
  put(path, "old");
  const auto error = [&](std::vector<std::pair<std::string, Tensor>> tensors, std::map<std::string, std::string> metadata = {}) {
    return error_of(folder, [&] { save_safetensors(path, {.tensors = std::move(tensors), .metadata = std::move(metadata)}); });
  };
  CHECK(error({{"a", Tensor()}}) == "x: tensor \"a\" is undefined");
  CHECK(error({{"__metadata__", ones({1})}}) == "x: a tensor cannot have the name \"__metadata__\"");
  CHECK(error({{"\xff", ones({1})}}) == "x: the name of tensor 0 is not valid UTF-8");
  CHECK(error({{"a", ones({1})}, {"a", ones({1})}}) == "x: two tensors have the name \"a\"");
  CHECK(error({}, {{"key", "\xff"}}) == "json: a text is not valid UTF-8 at byte 0");
  CHECK(error_of(folder, [&] { save_safetensors(folder / "no" / "x", {}); }) == "no/x: cannot write: No such file or directory");
  CHECK(error_of(folder, [&] { TensorMap().at("w"); }) == "there is no tensor \"w\" among the 0 given");
  CHECK(get(path) == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("safetensors: thousands of damaged files are valid or an error") {
  TemporaryFolder folder;
  const auto path = folder / "x.safetensors";
  save_safetensors(path, every_kind());
  const std::string good = get(path);
  uint64_t header = 0;
  std::memcpy(&header, good.data(), 8);
  double sum = 0;
  const auto load = [&](const std::string& content) {
    put(path, content);
    for (const auto& [name, tensor] : load_safetensors(path).tensors) {
      dispatch_all(tensor.dtype(), [&]<class T>() {
        for (int64_t i = 0; i < tensor.numel(); ++i) sum += static_cast<double>(tensor.data<T>()[i]) != 0 ? 1 : 0;
      });
    }
  };
  const int loaded = count_loads(2000, [&](uint64_t seed) { load(damaged(good, seed, 8 + header)); }) +
                     count_loads(1000, [&](uint64_t seed) { load(damaged(good, 1'000'000 + seed)); });
  CHECK(loaded > 0);  // a changed name or value is valid
  CHECK(loaded < 2000);
  CHECK(sum > 0);
}

TEST_CASE("safetensors: the golden files, written by the Python package") {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(WEFT_TEST_DATA) + "/golden")) {
    if (entry.path().extension() != ".safetensors") continue;
    CAPTURE(entry.path().string());
    const TensorMap map = load_safetensors(entry.path());
    CHECK(map.metadata.contains("kind"));
    CHECK(map.metadata.contains("model"));
    ++files;
  }
  CHECK(files > 100);
}

}  // namespace
}  // namespace weft
