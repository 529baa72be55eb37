#include "weft/train/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <chrono>
#include <set>
#include <thread>

#include "train/temporary_folder.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

// While it lives, files cannot grow beyond `bytes`: what a full disk looks like to a writer.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST_CASE("files: a file is created and replaced as a whole") {
  TemporaryFolder folder;
  const auto path = folder / "a.txt";
  write_file_atomically(path, "first");
  CHECK(get(path) == "first");
  write_file_atomically(path, "");
  CHECK(get(path) == "");
  {
    AtomicFile file(path);
    file.write("one ");
    file.write("two");
    CHECK(get(path) == "");
    file.commit();
  }
  CHECK(get(path) == "one two");
  CHECK(folder.entries() == 1);
}

TEST_CASE("files: without commit nothing happens") {
  TemporaryFolder folder;
  put(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
    CHECK(folder.entries() == 2);
  }
  CHECK(get(folder / "a") == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("files: a relative name, a symbolic link, the permissions of new files") {
  TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomically("here.txt", "x");
  std::filesystem::current_path(before);
  CHECK(get(folder / "here.txt") == "x");
  const auto others = std::filesystem::perms::others_read | std::filesystem::perms::group_read;
  const mode_t mask = ::umask(0);
  ::umask(mask);
  if ((mask & 0044) == 0) CHECK((std::filesystem::status(folder / "here.txt").permissions() & others) == others);

  std::filesystem::create_symlink(folder / "here.txt", folder / "link");
  write_file_atomically(folder / "link", "y");
  CHECK(get(folder / "link") == "y");
  CHECK(get(folder / "here.txt") == "x");
}

TEST_CASE("files: errors name the file and the reason") {
  TemporaryFolder folder;
  put(folder / "file", "x");
  const auto error = [&](const std::filesystem::path& path) { return error_of(folder, [&] { write_file_atomically(path, "y"); }); };
  CHECK(error(folder / "none" / "a") == "none/a: cannot write: No such file or directory");
  CHECK(error(folder / "file" / "a") == "file/a: cannot write: Not a directory");  // holds for root too, unlike permissions
  CHECK(error(folder.path()).ends_with(": cannot write: it is a folder"));
  CHECK(error("/dev/null") == "/dev/null: cannot write: it is not a regular file");
  CHECK(error(folder / std::string(300, 'n')).ends_with("n: cannot write: File name too long"));
  CHECK(error_of(folder, [&] { read_file(folder / "none"); }) == "none: cannot open: No such file or directory");
  CHECK(error_of(folder, [&] { read_file(folder.path()); }).ends_with(": expected a file, found a folder"));
  CHECK(error_of(folder, [&] { read_file("/dev/null"); }) ==
        "/dev/null: expected a regular file; write what comes out of a pipe or device to one first");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(error_of(folder, [&] { read_file(folder / "pipe"); }) ==
        "pipe: expected a regular file; write what comes out of a pipe or device to one first");
  std::filesystem::remove(folder / "pipe");
  CHECK(error_of(folder, [&] { make_folder(folder / "file" / "sub"); }) == "file/sub: cannot create the folder: Not a directory");
  CHECK(error_of(folder, [&] { make_folder(folder / "file"); }) != "");
  CHECK(error_of(folder, [&] { make_folder("/proc/weft"); }).starts_with("/proc/weft: cannot create the folder: "));
  CHECK(error_of(folder, [&] { make_folder("/proc/self/fd"); }).starts_with("/proc/self/fd: cannot create files in the folder: "));
  CHECK(error_of(folder, [&] { FolderLock(folder / "none"); }) == "none: cannot open the folder: No such file or directory");
  CHECK(folder.entries() == 1);
}

TEST_CASE("files: a full disk leaves the old file and no temporary") {
  TemporaryFolder folder;
  put(folder / "a", "old");
  std::string message;
  {
    const FileSizeLimit limit(10'000);
    message = error_of(folder, [&] { write_file_atomically(folder / "a", std::string(50'000, 'n')); });
  }
  CHECK(message == "a: cannot write: File too large");
  CHECK(get(folder / "a") == "old");
  CHECK(folder.entries() == 1);

  const int full = ::open("/dev/full", O_WRONLY);
  if (full >= 0) {
    CHECK(error_of(folder, [&] { write_fully(full, "x", 1, folder / "a"); }) == "a: cannot write: No space left on device");
    ::close(full);
  }
}

TEST_CASE("files: writes go on after signals and partial writes") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) {};
  ::sigaction(SIGALRM, &action, &before);  // without SA_RESTART: system calls are interrupted
  const itimerval often{{0, 500}, {0, 500}}, never{};
  ::setitimer(ITIMER_REAL, &often, nullptr);

  std::string sent(3'000'000, ' '), received;
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i * 31 + i / 256);
  std::thread reader([&] {
    std::string buffer(50'000, ' ');
    while (true) {
      const ssize_t n = ::read(ends[0], buffer.data(), buffer.size());
      if (n == 0) break;
      if (n > 0) received.append(buffer, 0, static_cast<size_t>(n));
    }
  });
  write_fully(ends[1], sent.data(), static_cast<int64_t>(sent.size()), "pipe");
  ::close(ends[1]);
  reader.join();
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  ::close(ends[0]);
  CHECK((received == sent));
}

TEST_CASE("files: a writer killed at any instant leaves the old or the new file") {
  TemporaryFolder folder;
  const auto path = folder / "a";
  write_file_atomically(path, std::string(1, 'a'));
  std::set<char> seen;
  for (int round = 0; round < 20; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int i = 0;; ++i) write_file_atomically(path, std::string(static_cast<size_t>(100'000 + i), static_cast<char>('a' + i % 26)));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(500 + 700 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::string content = get(path);
    REQUIRE(!content.empty());
    CHECK(content.find_first_not_of(content[0]) == std::string::npos);
    CHECK((content.size() == 1 || (content.size() - 100'000) % 26 == static_cast<size_t>(content[0] - 'a')));
    seen.insert(content[0]);
  }
  remove_temporary_files(folder.path());
  CHECK(folder.entries() == 1);
  remove_temporary_files(folder / "none");
}

TEST_CASE("files: mapped files") {
  TemporaryFolder folder;
  put(folder / "empty", "");
  const MappedFile empty(folder / "empty");
  CHECK(empty.size() == 0);
  CHECK(empty.text() == "");

  put(folder / "a", "some text");
  const MappedFile mapped(folder / "a");
  write_file_atomically(folder / "a", "other");
  CHECK(mapped.text() == "some text");
  CHECK(read_file(folder / "a") == "other");

  const MappedFile copied(folder / "a", MappedFile::Access::copy_on_write);
  copied.data()[0] = std::byte{'A'};
  CHECK(copied.text() == "Ather");
  CHECK(read_file(folder / "a") == "other");
}

TEST_CASE("files: folders and locks") {
  TemporaryFolder folder;
  make_folder(folder / "a" / "b");
  make_folder(folder / "a" / "b");
  CHECK(std::filesystem::is_empty(folder / "a" / "b"));
  {
    const FolderLock lock(folder / "a");
    CHECK(error_of(folder, [&] { FolderLock(folder / "a"); }) == "a: another process is working in this folder");
  }
  const FolderLock again(folder / "a");
}

TEST_CASE("files: checksums") {
  std::string text = "the quick brown fox jumps over the lazy dog";
  const auto sum = [](const std::string& t, uint64_t start = 0) { return checksum(t.data(), static_cast<int64_t>(t.size()), start); };
  std::set<uint64_t> sums = {sum(text), sum(""), sum(std::string(1, '\0')), sum(std::string(8, '\0')), sum(text, 1)};
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = text;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      sums.insert(sum(changed));
    }
    sums.insert(sum(text.substr(0, i)));
  }
  CHECK(sums.size() == 5 + 8 * text.size() + text.size() - 1);  // "" was there already
  CHECK(sum(text) == sum(std::string(text)));
}

}  // namespace
}  // namespace weft
