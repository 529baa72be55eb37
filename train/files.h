// Files that survive: a file is replaced as a whole or not at all, whatever happens on the way (kill -9, a full disk, a power cut).
//
// All errors name the file, what was attempted and the system's reason: `model.safetensors: cannot write: No space left on device`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft {

/// Writes a temporary file in the same folder, flushes it to disk, renames it over `path` and flushes the folder. On an error the file
/// that was there before is untouched and the temporary is gone. A symbolic link is replaced, not followed.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// The same in pieces. Without `commit` (an exception on the way) nothing happens to `path`.
class AtomicFile {
 public:
  /// An error if the folder is missing or not writable, or if `path` is something else than a regular file.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, int64_t bytes);
  void write(std::string_view text) { write(text.data(), static_cast<int64_t>(text.size())); }
  /// Puts the file in place. Nothing can be written after it.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// Removes what writers that were killed have left in `folder` (nothing if the folder does not exist). For the owner of the folder only:
/// the temporary files of a running writer would go too.
void remove_temporary_files(const std::filesystem::path& folder);

/// Memory-mapped contents. The mapping lives as long as the object; it does not change when the file is replaced by a rename.
class MappedFile {
 public:
  enum class Access {
    read_only,
    /// Memory may be written; changed pages become private copies and never reach the file.
    copy_on_write,
  };
  explicit MappedFile(const std::filesystem::path& path, Access access = Access::read_only);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// nullptr for an empty file.
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), static_cast<size_t>(size_)}; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

/// The whole file in memory.
std::string read_file(const std::filesystem::path& path);

/// Creates the folder and its parents where they are missing. An error if that fails or if no file can be created in it.
void make_folder(const std::filesystem::path& folder);

/// While it lives, this process alone works in `folder`: a second lock is an error. The system releases it when the process ends, however
/// it ends. On file systems without locks it does nothing.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// A 64-bit checksum, fast enough for gigabytes; any change within one 8-byte word changes it. Not cryptographic. Chains: pass the
/// checksum of what came before as `start`.
uint64_t checksum(const void* data, int64_t bytes, uint64_t start = 0);

/// `PATH: cannot ACTION: reason`, where `error` is the errno of a system function.
[[noreturn]] void fail_system(const std::filesystem::path& path, const char* action, int error);
/// Writes all bytes to an open file, continuing after interruptions and partial writes. Errors name `path`.
void write_fully(int descriptor, const void* data, int64_t bytes, const std::filesystem::path& path);
/// Flushes an open file to disk, where its file system can.
void flush_to_disk(int descriptor, const std::filesystem::path& path);

}  // namespace weft
