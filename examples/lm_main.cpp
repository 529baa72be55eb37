#include "lm_main.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

namespace weft::programs {
namespace {

// Files that the program opens must not get the numbers of standard streams that it was started without: the log would go into them.
// Opened for reading only, so that writing to a closed stream still fails.
void occupy_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) != -1) continue;
    if (::open("/dev/null", O_RDONLY) < 0) return;  // the lowest free number: this one
  }
}

}  // namespace

void say(const std::string& text) { std::fputs(text.c_str(), stdout); }

int run_main(const char* name, const std::function<int()>& body) {
  occupy_standard_streams();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  // std::fprintf, which reports a full or closed stream but does not throw.
  int code = 1;
  try {
    code = body();
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
  const bool flushed = std::fflush(stdout) == 0;
  if (code == 0 && (!flushed || std::ferror(stdout) != 0)) {
    std::fprintf(stderr, "%s: standard output cannot be written (a full disk, or it is closed): what was printed is not complete\n", name);
    return 1;
  }
  return code;
}

}  // namespace weft::programs
