// What both programs have around their work: streams, errors and the exit code.
#pragma once

#include <functional>
#include <string>

namespace weft::programs {

/// Runs `body` and returns the exit code: the body's; 1, after an error (printed as "NAME: ...") or if standard output could not be
/// written.
int run_main(const char* name, const std::function<int()>& body);

/// Writes to standard output. A failure is an error of the program at its end (run_main), not here: a full disk behind a log ends no
/// training.
void say(const std::string& text);

}  // namespace weft::programs
