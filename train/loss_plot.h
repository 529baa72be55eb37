// The loss curve of a run as an SVG picture that reads well on light and on dark ground.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "weft/train/metrics.h"

namespace weft {

/// Training loss (for long runs the mean of a few hundred stretches, with the range inside each as a band) and validation loss over steps.
/// Rows whose loss is not finite are left out; without any row the picture says so.
std::string loss_plot(std::span<const MetricsRow> rows, const std::string& title);

/// Writes it atomically (see files.h).
void write_loss_plot(const std::filesystem::path& path, std::span<const MetricsRow> rows, const std::string& title);

}  // namespace weft
