// The bound of set_num_threads (device.h), which programs share.
#pragma once

namespace weft {

/// More threads than any machine has; far more fail to start.
inline constexpr int most_threads = 1024;

}  // namespace weft
