#include "weft/train/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "weft/train/files.h"
#include "weft/train/utf8.h"

namespace weft {
namespace {

constexpr double width = 800, height = 450;
constexpr double left = 64, right = 24, top = 48, bottom = 56;  // margins around the axes
constexpr size_t max_points = 300;
constexpr int wanted_ticks = 6;
constexpr size_t title_characters = 50;  // the legend stands beside it

// Middle tones that show on white and on black; viewers that know the ground take the second set on a dark one.
constexpr const char* style = R"(<style>
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; fill: #6e7781 }
  .title { font-size: 16px; font-weight: 600 }
  .grid { stroke: #8c959f; stroke-opacity: .3 }
  .axis { stroke: #8c959f; fill: none }
  .train { stroke: #2f81f7; fill: none; stroke-width: 2; stroke-linejoin: round }
  .band { fill: #2f81f7; fill-opacity: .2 }
  .val { stroke: #e5622f; fill: none; stroke-width: 2; stroke-linejoin: round }
  .dot { fill: #e5622f } .start { fill: #2f81f7 }
  @media (prefers-color-scheme: dark) { text { fill: #adbac7 } .grid, .axis { stroke: #768390 } }
</style>
)";

struct Point {
  double x, y, low, high;
};

// Points of at most max_points stretches: mean, smallest and largest value.
std::vector<Point> summarize(const std::vector<Point>& points) {
  if (points.size() <= max_points) return points;
  std::vector<Point> summary;
  for (size_t i = 0; i < max_points; ++i) {
    const size_t begin = points.size() * i / max_points, end = points.size() * (i + 1) / max_points;
    Point mean{0, 0, points[begin].low, points[begin].high};
    for (size_t k = begin; k < end; ++k) {
      mean.x += points[k].x / static_cast<double>(end - begin);
      mean.y += points[k].y / static_cast<double>(end - begin);
      mean.low = std::min(mean.low, points[k].low);
      mean.high = std::max(mean.high, points[k].high);
    }
    summary.push_back(mean);
  }
  return summary;
}

// One axis: its range ends at ticks, which are multiples of 1, 2 or 5 times a power of ten.
struct Axis {
  double begin = 0, end = 1, step = 0.2;
  Axis(double low, double high, double smallest_step) {
    const double raw = std::max((high - low) / wanted_ticks, smallest_step);
    const double power = std::pow(10, std::floor(std::log10(raw)));
    const double digit = raw / power;
    step = power * (digit <= 1.0001 ? 1 : digit <= 2.0001 ? 2 : digit <= 5.0001 ? 5 : 10);
    begin = std::floor(low / step) * step;
    end = std::max(std::ceil(high / step) * step, begin + step);
  }
  double fraction(double value) const { return (value - begin) / (end - begin); }
  int ticks() const { return static_cast<int>(std::lround((end - begin) / step)); }
  double tick(int i) const { return begin + i * step; }
};

std::string step_label(double step) {
  if (step >= 1e6) return fmt::format("{:g}M", step / 1e6);
  if (step >= 1e4) return fmt::format("{:g}k", step / 1e3);
  return fmt::format("{:g}", step);
}

// Text for XML, cut where the room ends.
std::string escape(const std::string& text) {
  std::string escaped;
  size_t characters = 0;
  for (size_t at = 0; at < text.size();) {
    if (++characters > title_characters) return escaped + "…";
    const Utf8Character c = utf8_at(text, at);
    const bool valid = c.kind == Utf8Character::Kind::complete && c.code >= 0x20;
    if (c.code == '<') {
      escaped += "&lt;";
    } else if (c.code == '&') {
      escaped += "&amp;";
    } else {
      escaped += valid ? text.substr(at, c.bytes) : std::string("?");
    }
    at += c.bytes;
  }
  return escaped;
}

class Picture {
 public:
  Picture(const Axis& x, const Axis& y) : x_(x), y_(y) {}

  std::string place(double x, double y) const {
    return fmt::format("{:.1f},{:.1f}", left + x_.fraction(x) * (width - left - right),
                       height - bottom - y_.fraction(y) * (height - top - bottom));
  }
  void line(const char* kind, const std::vector<Point>& points) {
    text += fmt::format("<polyline class=\"{}\" points=\"", kind);
    for (const Point& p : points) text += place(p.x, p.y) + " ";
    text += "\"/>\n";
  }
  void band(const std::vector<Point>& points) {
    text += "<polygon class=\"band\" points=\"";
    for (const Point& p : points) text += place(p.x, p.high) + " ";
    for (auto p = points.rbegin(); p != points.rend(); ++p) text += place(p->x, p->low) + " ";
    text += "\"/>\n";
  }
  void dots(const char* kind, const std::vector<Point>& points) {
    for (const Point& p : points) {
      const std::string at = place(p.x, p.y);
      const size_t comma = at.find(',');
      text += fmt::format("<circle class=\"{}\" cx=\"{}\" cy=\"{}\" r=\"3\"/>\n", kind, at.substr(0, comma), at.substr(comma + 1));
    }
  }
  void axes() {
    const double floor = height - bottom;
    const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(y_.step) - 1e-9)), 0, 8);
    for (int i = 0; i <= y_.ticks(); ++i) {
      const double y = floor - i * (floor - top) / y_.ticks();
      text += fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", left, width - right, y, y);
      text += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.{}f}</text>\n", left - 8, y + 4, y_.tick(i), decimals);
    }
    for (int i = 0; i <= x_.ticks(); ++i) {
      const double x = left + i * (width - left - right) / x_.ticks();
      text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x, floor + 20, step_label(x_.tick(i)));
    }
    text += fmt::format("<path class=\"axis\" d=\"M{} {}V{}H{}\"/>\n", left, top, floor, width - right);
    text += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>\n", (left + width - right) / 2, height - 14);
    text += fmt::format("<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">loss</text>\n", (top + floor) / 2);
  }
  void legend(bool validation) {
    text += fmt::format("<path class=\"train\" d=\"M{} 28h24\"/><text x=\"{}\" y=\"32\">training</text>\n", width - 226, width - 196);
    if (!validation) return;
    text += fmt::format("<path class=\"val\" d=\"M{} 28h24\"/><text x=\"{}\" y=\"32\">validation</text>\n", width - 124, width - 94);
  }

  std::string text;

 private:
  Axis x_, y_;
};

}  // namespace

std::string loss_plot(std::span<const MetricsRow> rows, const std::string& title) {
  std::vector<Point> train, validation;
  for (const MetricsRow& row : rows) {
    const auto x = static_cast<double>(row.step);
    if (std::isfinite(row.loss)) train.push_back({x, row.loss, row.loss, row.loss});
    if (row.val_loss && std::isfinite(*row.val_loss)) validation.push_back({x, *row.val_loss, *row.val_loss, *row.val_loss});
  }
  const std::vector<Point> points = summarize(train), validation_points = summarize(validation);
  std::vector<Point> all = points;
  all.insert(all.end(), validation_points.begin(), validation_points.end());

  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n{2}"
      "<text class=\"title\" x=\"{3}\" y=\"32\">{4}</text>\n",
      width, height, style, left, escape(title));
  if (all.empty()) {
    return text + fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">no losses yet</text>\n</svg>\n", width / 2, height / 2);
  }
  Point range = all[0];
  double first = range.x, last = range.x;
  for (const Point& p : all) {
    first = std::min(first, p.x);
    last = std::max(last, p.x);
    range.low = std::min(range.low, p.low);
    range.high = std::max(range.high, p.high);
  }
  Picture picture(Axis(std::min(first, 0.0), last, 1), Axis(range.low, range.high, 1e-6));
  picture.axes();
  if (train.size() > max_points) picture.band(points);
  picture.line("train", points);
  if (points.size() == 1) picture.dots("start", points);
  picture.line("val", validation_points);
  picture.dots("dot", validation_points);
  picture.legend(!validation_points.empty());
  return text + picture.text + "</svg>\n";
}

void write_loss_plot(const std::filesystem::path& path, std::span<const MetricsRow> rows, const std::string& title) {
  write_file_atomically(path, loss_plot(rows, title));
}

}  // namespace weft
