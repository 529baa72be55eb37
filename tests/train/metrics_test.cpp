#include "weft/train/metrics.h"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <numbers>

#include "train/temporary_folder.h"
#include "weft/train/loss_plot.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

MetricsRow row_of(int64_t step) {
  MetricsRow row{.step = step, .loss = std::numbers::pi / static_cast<double>(step + 1)};
  if (step % 20 == 0) row.val_loss = row.loss + 0.1;
  row.lr = 1e-3;
  row.grad_norm = 1.0 / 3;
  row.tokens_per_second = 51234.5;
  row.seconds = static_cast<double>(step) * 0.1;
  return row;
}

bool same(const MetricsRow& a, const MetricsRow& b) {
  return a.step == b.step && a.loss == b.loss && a.val_loss == b.val_loss && a.lr == b.lr && a.grad_norm == b.grad_norm &&
         a.tokens_per_second == b.tokens_per_second && a.seconds == b.seconds;
}

void write_steps(MetricsWriter& writer, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; step += 10) writer.write(row_of(step));
  writer.sync();
}

TEST_CASE("metrics: rows come back to the bit") {
  TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  MetricsWriter writer(path);
  CHECK(read_metrics(path).empty());
  write_steps(writer, 10, 100);
  const std::vector<MetricsRow> rows = read_metrics(path);
  REQUIRE(rows.size() == 10);
  for (size_t i = 0; i < rows.size(); ++i) CHECK(same(rows[i], row_of(10 * static_cast<int64_t>(i + 1))));

  MetricsWriter fresh(path);  // a run that does not resume starts over
  CHECK(read_metrics(path).empty());
}

TEST_CASE("metrics: a line as other programs see it") {
  TemporaryFolder folder;
  MetricsWriter writer(folder / "m");
  writer.write({.step = 5, .loss = 2.5, .lr = 0.001, .grad_norm = 1, .tokens_per_second = 1e6, .seconds = 0.5});
  writer.write({.step = 6, .loss = std::nan(""), .val_loss = 3, .grad_norm = std::numeric_limits<double>::infinity()});
  CHECK(get(folder / "m") ==
        "{\"step\": 5, \"loss\": 2.5, \"val_loss\": null, \"lr\": 0.001, \"grad_norm\": 1.0, \"tokens_per_second\": 1e+06, "
        "\"seconds\": 0.5}\n"
        "{\"step\": 6, \"loss\": null, \"val_loss\": 3.0, \"lr\": 0.0, \"grad_norm\": null, \"tokens_per_second\": 0.0, "
        "\"seconds\": 0.0}\n");
  const std::vector<MetricsRow> rows = read_metrics(folder / "m");
  CHECK(std::isnan(rows[1].loss));
  CHECK(std::isnan(rows[1].grad_norm));
  CHECK(rows[1].val_loss == 3);
}

TEST_CASE("metrics: a resumed run drops later lines and a torn one") {
  TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  {
    MetricsWriter writer(path);
    write_steps(writer, 10, 100);
  }
  const std::string all = get(path);
  put(path, all + all.substr(0, 30));
  CHECK(read_metrics(path).size() == 10);
  {
    MetricsWriter writer(path, 100);
    CHECK(get(path) == all);
  }
  {
    MetricsWriter writer(path, 55);
    write_steps(writer, 60, 80);
  }
  CHECK(get(path) == all.substr(0, get(path).size()));
  CHECK(read_metrics(path).back().step == 80);
  { MetricsWriter writer(path, 0); }
  CHECK(get(path).empty());
  put(path, "{\"st");
  { MetricsWriter writer(path, 7); }
  CHECK(get(path).empty());
  { MetricsWriter writer(folder / "new", 7); }
  CHECK(get(folder / "new").empty());
}

TEST_CASE("metrics: errors") {
  TemporaryFolder folder;
  const auto path = folder / "m";
  const auto error = [&](const std::string& content) {
    put(path, content);
    return error_of(folder, [&] { read_metrics(path); });
  };
  CHECK(error_of(folder, [&] { read_metrics(path); }) == "m: cannot open: No such file or directory");
  CHECK(error("{\"step\": 1}\n{\n{\"step\": 2}\n").starts_with("m:2: not valid JSON: "));
  CHECK(error("{\"step\": 1.5}\n") == "m:1: expected an object with an integer \"step\"");
  CHECK(error_of(folder, [&] { MetricsWriter(path, 1); }).ends_with("\nTo go on without that line, remove it from m"));
  CHECK(error("[]\n") == "m:1: expected an object with an integer \"step\"");
  CHECK(error("\n").starts_with("m:1: not valid JSON: "));
  CHECK(error("{\"step\": 1, \"loss\": \"x\"}\n") == "m:1: \"loss\" should be a number, found \"x\"");
  CHECK(error_of(folder, [&] { MetricsWriter(folder / "none" / "m"); }) == "none/m: cannot write: No such file or directory");
  CHECK(error_of(folder, [&] { MetricsWriter(folder / "m" / "m"); }) == "m/m: cannot write: Not a directory");
}

TEST_CASE("metrics: a full disk leaves no part of a line") {
  TemporaryFolder folder;
  const auto path = folder / "m";
  MetricsWriter writer(path);
  write_steps(writer, 10, 50);
  const std::string before = get(path);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit full{before.size() + 20, limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &full);
  const std::string message = error_of(folder, [&] { writer.write(row_of(60)); });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  CHECK(message == "m: cannot write: File too large");
  CHECK(get(path) == before);
  writer.write(row_of(60));
  CHECK(read_metrics(path).size() == 6);
}

TEST_CASE("metrics: thousands of damaged files are valid or an error") {
  TemporaryFolder folder;
  const auto path = folder / "m";
  {
    MetricsWriter writer(path);
    write_steps(writer, 10, 50);
  }
  const std::string good = get(path);
  const int loads = count_loads(2000, [&](uint64_t seed) {
    put(path, damaged(good, seed));
    const size_t rows = read_metrics(path).size();
    MetricsWriter writer(path, 1'000'000);
    writer.write(row_of(60));
    CHECK(read_metrics(path).size() <= rows + 1);
  });
  CHECK(loads > 50);
  CHECK(loads < 1950);
}

// ---- the loss curve

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

// Every coordinate lies inside the picture, and the text has no NaN.
void check_picture(const std::string& svg) {
  CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.find("inf") == std::string::npos);
  for (const char* list : {"points=\""}) {
    for (size_t at = svg.find(list); at != std::string::npos; at = svg.find(list, at)) {
      at += std::string(list).size();
      const size_t end = svg.find('"', at);
      const std::string points = svg.substr(at, end - at);
      for (size_t i = 0; i < points.size(); i = points.find(' ', i) + 1) {
        const double x = std::stod(points.substr(i)), y = std::stod(points.substr(points.find(',', i) + 1));
        CHECK((x >= 60 && x <= 780 && y >= 40 && y <= 400));
      }
    }
  }
}

TEST_CASE("loss plot: both curves, axes, legend and title") {
  std::vector<MetricsRow> rows;
  for (int64_t step = 0; step <= 2000; step += 100) {
    rows.push_back({.step = step, .loss = 4 * std::exp(-static_cast<double>(step) / 500) + 1.5});
    if (step % 500 == 0) rows.back().val_loss = rows.back().loss + 0.1;
  }
  const std::string svg = loss_plot(rows, "tales & <more> \"é\"");
  check_picture(svg);
  CHECK(svg.find("tales &amp; &lt;more> \"é\"") != std::string::npos);
  CHECK(count(svg, "<polyline") == 2);
  CHECK(count(svg, "class=\"dot\"") == 5);
  CHECK(svg.find(">training<") != std::string::npos);
  CHECK(svg.find(">validation<") != std::string::npos);
  CHECK(svg.find(">step<") != std::string::npos);
  CHECK(svg.find(">2000<") != std::string::npos);
  CHECK(svg.find(">6<") != std::string::npos);
  CHECK(svg.find("prefers-color-scheme: dark") != std::string::npos);
  CHECK(svg.find("class=\"band\" points") == std::string::npos);
}

TEST_CASE("loss plot: long runs are summarized") {
  std::vector<MetricsRow> rows;
  for (int64_t step = 0; step < 100'000; ++step) rows.push_back({.step = step, .loss = 2 + std::sin(static_cast<double>(step))});
  const std::string svg = loss_plot(rows, "");
  check_picture(svg);
  CHECK(svg.size() < 30'000);
  CHECK(svg.find("class=\"band\" points") != std::string::npos);
  CHECK(svg.find(">validation<") == std::string::npos);
  CHECK(svg.find(">100k<") != std::string::npos);
}

TEST_CASE("loss plot: few rows, equal losses, numbers that are none") {
  CHECK(loss_plot({}, "t").find("no losses yet") != std::string::npos);
  CHECK(loss_plot({}, std::string(80, 'n')).find(">" + std::string(50, 'n') + "…<") != std::string::npos);
  check_picture(loss_plot(std::vector<MetricsRow>{{.step = 10, .loss = 2}}, ""));
  check_picture(loss_plot(std::vector<MetricsRow>{{.step = 10, .loss = 0}, {.step = 20, .loss = 0}}, ""));
  check_picture(loss_plot(std::vector<MetricsRow>{{.step = 0, .loss = 1e-9}, {.step = 1, .loss = 1e9}}, "\x01\xff"));
  check_picture(loss_plot(
      std::vector<MetricsRow>{
          {.step = 1, .loss = std::nan("")}, {.step = 2, .loss = 3}, {.step = 3, .loss = HUGE_VAL, .val_loss = HUGE_VAL}},
      ""));
  CHECK(loss_plot(std::vector<MetricsRow>{{.step = 1, .loss = std::nan("")}}, "").find("no losses yet") != std::string::npos);

  TemporaryFolder folder;
  write_loss_plot(folder / "loss.svg", {}, "t");
  CHECK(get(folder / "loss.svg") == loss_plot({}, "t"));
}

}  // namespace
}  // namespace weft
