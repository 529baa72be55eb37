#include "weft/train/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "weft/core/error.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view temporary_mark = ".weft-tmp-";

// Calls a system function again for as long as a signal interrupts it.
template <class F>
auto uninterrupted(F call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result == -1 && errno == EINTR);
  return result;
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int value() const { return value_; }

 private:
  int value_;
};

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

void flush_folder(const fs::path& folder) {
  const Descriptor descriptor(uninterrupted([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (descriptor.value() < 0) fail_system(folder, "open the folder", errno);
  flush_to_disk(descriptor.value(), folder);
}

// Creates a file that was not there; sets `path` to its name.
int create_temporary(const fs::path& target, fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  const std::string prefix = format(".{}{}{}-", target.filename().string(), temporary_mark, ::getpid());
  while (true) {
    path = folder_of(target) / (prefix + std::to_string(counter.fetch_add(1)));
    const int descriptor = uninterrupted([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
}

}  // namespace

void fail_system(const fs::path& path, const char* action, int error) {
  fail("{}: cannot {}: {}", path.string(), action, std::generic_category().message(error));
}

void write_fully(int descriptor, const void* data, int64_t bytes, const fs::path& path) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = uninterrupted([&] { return ::write(descriptor, from, static_cast<size_t>(bytes)); });
    if (written < 0) fail_system(path, "write", errno);
    from += written;
    bytes -= written;
  }
}

void flush_to_disk(int descriptor, const fs::path& path) {
  const int result = uninterrupted([&] { return ::fsync(descriptor); });
  if (result != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) fail_system(path, "flush to disk", errno);
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0) {
    WEFT_CHECK(!S_ISDIR(status.st_mode), "{}: cannot write: it is a folder", path_.string());
    WEFT_CHECK(S_ISREG(status.st_mode) || S_ISLNK(status.st_mode), "{}: cannot write: it is not a regular file", path_.string());
  }
  descriptor_ = create_temporary(path_, temporary_);
  if (descriptor_ < 0) fail_system(path_, "write", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, int64_t bytes) { write_fully(descriptor_, data, bytes, path_); }

void AtomicFile::commit() {
  flush_to_disk(descriptor_, path_);
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 && errno != EINTR) fail_system(path_, "write", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_system(path_, "replace", errno);
  temporary_.clear();
  flush_folder(folder_of(path_));
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

void remove_temporary_files(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with('.') && name.find(temporary_mark) != std::string::npos) found.push_back(entry->path());
  }
  for (const fs::path& path : found) ::unlink(path.c_str());
}

MappedFile::MappedFile(const fs::path& path, Access access) {
  // O_NONBLOCK: opening a pipe would wait for its writer.
  const Descriptor descriptor(uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
  if (descriptor.value() < 0) fail_system(path, "open", errno);
  struct stat status {};
  if (::fstat(descriptor.value(), &status) != 0) fail_system(path, "open", errno);
  WEFT_CHECK(!S_ISDIR(status.st_mode), "{}: expected a file, found a folder", path.string());
  WEFT_CHECK(S_ISREG(status.st_mode), "{}: expected a regular file; write what comes out of a pipe or device to one first", path.string());
  size_ = status.st_size;
  if (size_ == 0) return;
  const int protection = access == Access::copy_on_write ? PROT_READ | PROT_WRITE : PROT_READ;
  void* memory = ::mmap(nullptr, static_cast<size_t>(size_), protection, MAP_PRIVATE | MAP_NORESERVE, descriptor.value(), 0);
  if (memory == MAP_FAILED) fail_system(path, "map into memory", errno);
  data_ = static_cast<std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(size_));
}

std::string read_file(const fs::path& path) {
  const MappedFile file(path);
  return std::string(file.text());
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> missing;
  for (fs::path p = folder; !p.empty() && !fs::exists(p, error) && !error; p = p.parent_path()) missing.push_back(p);
  fs::create_directories(folder, error);
  if (error) fail_system(folder, "create the folder", error.value());
  for (const fs::path& created : missing) flush_folder(folder_of(created));
  fs::path probe;
  const Descriptor descriptor(create_temporary(folder / "probe", probe));
  if (descriptor.value() < 0) fail_system(folder, "create files in the folder", errno);
  ::unlink(probe.c_str());
}

FolderLock::FolderLock(const fs::path& folder) {
  descriptor_ = uninterrupted([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (descriptor_ < 0) fail_system(folder, "open the folder", errno);
  if (uninterrupted([&] { return ::flock(descriptor_, LOCK_EX | LOCK_NB); }) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    fail("{}: another process is working in this folder", folder.string());
  }
}

FolderLock::~FolderLock() { ::close(descriptor_); }

uint64_t checksum(const void* data, int64_t bytes, uint64_t start) {
  constexpr uint64_t multiplier = 0x9E3779B97F4A7C15U;  // odd: mixing is a bijection of the state
  uint64_t state = start;
  const auto mix = [&](uint64_t word) {
    state = (state ^ word) * multiplier;
    state ^= state >> 29;
  };
  mix(multiplier);
  mix(static_cast<uint64_t>(bytes));
  const auto* from = static_cast<const char*>(data);
  uint64_t word = 0;
  for (; bytes >= 8; bytes -= 8, from += 8) {
    std::memcpy(&word, from, 8);
    mix(word);
  }
  if (bytes > 0) {
    word = 0;
    std::memcpy(&word, from, static_cast<size_t>(bytes));
    mix(word);
  }
  return state;
}

}  // namespace weft
