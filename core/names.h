// Help for users who mistype a name.
#pragma once

#include <string>
#include <vector>

namespace weft {

/// "did you mean \"local\"? Known: alibi, local, ..." (the question only if something is close).
std::string suggest(const std::string& name, const std::vector<std::string>& known);

}  // namespace weft
