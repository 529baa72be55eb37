#include "weft/train/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "weft/train/files.h"
#include "weft/train/json.h"
#include "weft/train/utf8.h"

namespace weft {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian and are mapped as they are");

constexpr int64_t length_bytes = 8;
constexpr uint64_t max_header = 100'000'000;  // as in the Python package
constexpr std::string_view metadata_name = "__metadata__";

struct FileType {
  const char* name;
  DType dtype;
};
constexpr FileType file_types[] = {{"F32", DType::float32},   {"F64", DType::float64}, {"F16", DType::float16},
                                   {"BF16", DType::bfloat16}, {"I64", DType::int64},   {"BOOL", DType::boolean}};

const char* file_type_of(DType dtype) {
  return std::find_if(std::begin(file_types), std::end(file_types), [&](const FileType& t) { return t.dtype == dtype; })->name;
}

// One tensor of a header. Offsets count from the start of the data.
struct Entry {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  int64_t begin = 0, end = 0;
};

// Reads a header, member by member; `file_` opens every message.
class HeaderReader {
 public:
  HeaderReader(std::string file, int64_t data_bytes) : file_(std::move(file)), data_bytes_(data_bytes) {}

  void read(const Json& header) {
    const Json::Object* members = header.as_object();
    WEFT_CHECK(members != nullptr, "{}: the header is no JSON object", file_);
    for (const JsonMember& member : *members) {
      if (member.name == metadata_name) {
        read_metadata(member.value);
      } else {
        entries.push_back(read_entry(member.name, member.value));
      }
    }
    check_offsets();
  }

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

 private:
  void read_metadata(const Json& value) {
    const Json::Object* members = value.as_object();
    WEFT_CHECK(members != nullptr, "{}: __metadata__ is no JSON object", file_);
    for (const JsonMember& member : *members) {
      const std::string* text = member.value.as_text();
      WEFT_CHECK(text != nullptr, "{}: __metadata__: \"{}\" should be a text, found {}", file_, member.name, dump(member.value));
      metadata[member.name] = *text;
    }
  }

  Entry read_entry(const std::string& name, const Json& value) const {
    const Json::Object* members = value.as_object();
    const Json *dtype = value.find("dtype"), *shape = value.find("shape"), *offsets = value.find("data_offsets");
    WEFT_CHECK(members != nullptr && members->size() == 3 && dtype != nullptr && shape != nullptr && offsets != nullptr,
               "{}: tensor \"{}\": expected dtype, shape and data_offsets, found {}", file_, name, dump(value));
    Entry entry{.name = name, .dtype = read_dtype(name, *dtype), .shape = {}, .begin = 0, .end = 0};
    const int64_t bytes = read_shape(entry, *shape);
    read_offsets(entry, *offsets);
    WEFT_CHECK(entry.end - entry.begin == bytes, "{}: tensor \"{}\": {} {} takes {} bytes, data_offsets [{}, {}] hold {}", file_, name,
               entry.dtype, entry.shape, bytes, entry.begin, entry.end, entry.end - entry.begin);
    return entry;
  }

  DType read_dtype(const std::string& name, const Json& value) const {
    const std::string* text = value.as_text();
    for (const FileType& type : file_types) {
      if (text != nullptr && *text == type.name) return type.dtype;
    }
    fail("{}: tensor \"{}\": dtype {} is not supported (F32, F64, F16, BF16, I64 and BOOL are)", file_, name, dump(value));
  }

  // Returns the size in bytes.
  int64_t read_shape(Entry& entry, const Json& value) const {
    const Json::Array* sizes = value.as_array();
    WEFT_CHECK(sizes != nullptr, "{}: tensor \"{}\": shape should be a list, found {}", file_, entry.name, dump(value));
    WEFT_CHECK(sizes->size() <= Shape::max_rank, "{}: tensor \"{}\": {} dimensions, at most {} are supported", file_, entry.name,
               sizes->size(), Shape::max_rank);
    int64_t bytes = size_of(entry.dtype);
    bool empty = false, overflow = false;
    for (const Json& item : *sizes) {
      const int64_t size = item.as_integer().value_or(-1);
      WEFT_CHECK(size >= 0, "{}: tensor \"{}\": shape {} holds something else than sizes", file_, entry.name, dump(value));
      empty = empty || size == 0;
      // Sizes next to a zero count too: strides are products of them.
      overflow = overflow || __builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes);
      entry.shape.push_back(size);
    }
    WEFT_CHECK(!overflow, "{}: tensor \"{}\": shape {} has more elements than fit", file_, entry.name, dump(value));
    return empty ? 0 : bytes;
  }

  void read_offsets(Entry& entry, const Json& value) const {
    const Json::Array* ends = value.as_array();
    if (ends != nullptr && ends->size() == 2) {
      entry.begin = (*ends)[0].as_integer().value_or(-1);
      entry.end = (*ends)[1].as_integer().value_or(-1);
    }
    WEFT_CHECK(ends != nullptr && ends->size() == 2 && 0 <= entry.begin && entry.begin <= entry.end,
               "{}: tensor \"{}\": data_offsets should be [begin, end], found {}", file_, entry.name, dump(value));
    WEFT_CHECK(entry.end <= data_bytes_, "{}: tensor \"{}\": data_offsets [{}, {}] reach beyond the {} bytes of data", file_, entry.name,
               entry.begin, entry.end, data_bytes_);
  }

  // Together the tensors cover every byte once.
  void check_offsets() const {
    std::vector<const Entry*> order;
    for (const Entry& entry : entries) order.push_back(&entry);
    std::sort(order.begin(), order.end(),
              [](const Entry* a, const Entry* b) { return std::pair(a->begin, a->end) < std::pair(b->begin, b->end); });
    int64_t end = 0;
    for (const Entry* entry : order) {
      WEFT_CHECK(entry->begin >= end, "{}: tensor \"{}\": data_offsets [{}, {}] overlap with another tensor, which ends at {}", file_,
                 entry->name, entry->begin, entry->end, end);
      WEFT_CHECK(entry->begin == end, "{}: bytes {} to {} of the data belong to no tensor", file_, end, entry->begin);
      end = entry->end;
    }
    WEFT_CHECK(end == data_bytes_, "{}: {} bytes follow the last tensor; the file was not written completely or is damaged", file_,
               data_bytes_ - end);
  }

  std::string file_;
  int64_t data_bytes_;
};

Tensor make_tensor(const std::string& file, const Entry& entry, std::byte* data, const std::shared_ptr<MappedFile>& mapping) {
  const int64_t bytes = entry.end - entry.begin;
  std::byte* from = data + entry.begin;
  if (entry.dtype == DType::boolean) {
    for (int64_t i = 0; i < bytes; ++i) {
      WEFT_CHECK(from[i] <= std::byte{1}, "{}: tensor \"{}\": element {} is {}, a BOOL is 0 or 1", file, entry.name, i,
                 std::to_integer<int>(from[i]));
    }
  }
  if (reinterpret_cast<uintptr_t>(from) % static_cast<uintptr_t>(size_of(entry.dtype)) == 0) {
    return Tensor(std::make_shared<Storage>(from, bytes, mapping), entry.shape, entry.dtype);
  }
  Tensor copy = empty(entry.shape, {.dtype = entry.dtype, .device = Device::cpu()});
  if (bytes > 0) std::memcpy(copy.raw(), from, static_cast<size_t>(bytes));
  return copy;
}

}  // namespace

const Tensor* TensorMap::find(const std::string& name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& entry) { return entry.first == name; });
  return found == tensors.end() ? nullptr : &found->second;
}

const Tensor& TensorMap::at(const std::string& name) const {
  const Tensor* tensor = find(name);
  WEFT_CHECK(tensor != nullptr, "there is no tensor \"{}\" among the {} given", name, tensors.size());
  return *tensor;
}

void save_safetensors(const std::filesystem::path& path, const TensorMap& map, NameOrder order) {
  const std::string file = path.string();
  std::unordered_set<std::string> names;
  for (const auto& [name, tensor] : map.tensors) {
    WEFT_CHECK(tensor.defined(), "{}: tensor \"{}\" is undefined", file, name);
    WEFT_CHECK(name != metadata_name, "{}: a tensor cannot have the name \"{}\"", file, name);
    WEFT_CHECK(find_invalid_utf8(name) == name.size(), "{}: the name of tensor {} is not valid UTF-8", file, names.size());
    WEFT_CHECK(names.insert(name).second, "{}: two tensors have the name \"{}\"", file, name);
  }

  // The data: wider elements first, otherwise in the given order.
  std::vector<size_t> layout(map.tensors.size());
  for (size_t i = 0; i < layout.size(); ++i) layout[i] = i;
  std::stable_sort(layout.begin(), layout.end(),
                   [&](size_t a, size_t b) { return size_of(map.tensors[a].second.dtype()) > size_of(map.tensors[b].second.dtype()); });
  std::vector<int64_t> begins(layout.size());
  int64_t data_bytes = 0;
  for (size_t i : layout) {
    begins[i] = data_bytes;
    data_bytes += map.tensors[i].second.bytes();
  }

  std::vector<size_t> members(map.tensors.size());
  for (size_t i = 0; i < members.size(); ++i) members[i] = i;
  if (order == NameOrder::sorted) {
    std::sort(members.begin(), members.end(), [&](size_t a, size_t b) { return map.tensors[a].first < map.tensors[b].first; });
  }
  Json::Object header;
  if (!map.metadata.empty()) {
    Json::Object metadata;
    for (const auto& [key, text] : map.metadata) metadata.push_back({key, text});
    header.push_back({std::string(metadata_name), std::move(metadata)});
  }
  for (size_t i : members) {
    const auto& [name, tensor] = map.tensors[i];
    const Json::Array shape(tensor.shape().begin(), tensor.shape().end());
    const Json::Array offsets = {begins[i], begins[i] + tensor.bytes()};
    header.push_back({name, Json::Object{{"dtype", file_type_of(tensor.dtype())}, {"shape", shape}, {"data_offsets", offsets}}});
  }
  std::string text = dump(std::move(header));
  text.append((length_bytes - text.size() % length_bytes) % length_bytes, ' ');
  WEFT_CHECK(text.size() <= max_header, "{}: the header takes {} bytes, at most {} are allowed", file, text.size(), max_header);

  AtomicFile out(path);
  const uint64_t length = text.size();
  out.write(&length, length_bytes);
  out.write(text);
  for (size_t i : layout) {
    const Tensor host = to_host(map.tensors[i].second);
    out.write(host.raw(), host.bytes());
  }
  out.commit();
}

TensorMap load_safetensors(const std::filesystem::path& path) {
  const std::string file = path.string();
  const auto mapping = std::make_shared<MappedFile>(path, MappedFile::Access::copy_on_write);
  WEFT_CHECK(mapping->size() >= length_bytes, "{}: not a safetensors file: it has {} bytes", file, mapping->size());
  uint64_t length = 0;
  std::memcpy(&length, mapping->data(), length_bytes);
  const int64_t rest = mapping->size() - length_bytes;
  WEFT_CHECK(length <= max_header && static_cast<int64_t>(length) <= rest,
             "{}: not a safetensors file: its header would take {} bytes (the file has {}, at most {} are allowed)", file, length,
             mapping->size(), max_header);
  const auto header_bytes = static_cast<int64_t>(length);

  HeaderReader reader(file, rest - header_bytes);
  reader.read(parse_json(mapping->text().substr(length_bytes, length), file + ": header"));
  TensorMap map;
  map.metadata = std::move(reader.metadata);
  for (const Entry& entry : reader.entries) {
    map.tensors.emplace_back(entry.name, make_tensor(file, entry, mapping->data() + length_bytes + header_bytes, mapping));
  }
  return map;
}

}  // namespace weft
