#include "weft/train/progress.h"

#include <cmath>

#include "train/temporary_folder.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

// What a Progress writes.
template <class F>
std::string output(bool terminal, int columns, F f) {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  {
    Progress progress({.total_steps = 200, .first_step = 100, .stream = file, .terminal = terminal, .columns = columns});
    f(progress);
  }
  std::string text(static_cast<size_t>(std::ftell(file)), ' ');
  std::rewind(file);
  CHECK(std::fread(text.data(), 1, text.size(), file) == text.size());
  std::fclose(file);
  return text;
}

const ProgressState middle{
    .step = 1200, .total_steps = 2000, .loss = 1.83449, .val_loss = 1.9, .tokens_per_second = 52345, .seconds_left = 72};

TEST_CASE("progress: what a line shows") {
  CHECK(plain_line(middle) == "step 1200/2000  loss 1.8345  val 1.9000  52.3k tokens/s  1m 12s left");
  CHECK(plain_line({.step = 5, .total_steps = 2000, .loss = 1, .tokens_per_second = 99}) == "step    5/2000  loss 1.0000  99 tokens/s");
  CHECK(progress_line(middle, 120) == "[==================>           ] 1200/2000  loss 1.8345  val 1.9000  52.3k tokens/s  1m 12s left");
}

TEST_CASE("progress: a line fits the columns, however few") {
  CHECK(progress_line(middle, 79) == "[=======>     ] 1200/2000  loss 1.8345  val 1.9000  52.3k tokens/s  1m 12s left");
  CHECK(progress_line(middle, 64) == "1200/2000  loss 1.8345  val 1.9000  52.3k tokens/s  1m 12s left");
  CHECK(progress_line(middle, 30) == "1200/2000  loss 1.8345");
  CHECK(progress_line(middle, 5) == "1200/");
  CHECK(progress_line(middle, 0) == "");
  CHECK(progress_line(middle, -3) == "");
  for (int columns = 0; columns < 150; ++columns) CHECK(progress_line(middle, columns).size() <= static_cast<size_t>(columns));
  const ProgressState done{.step = 3, .total_steps = 3, .loss = std::nan(""), .tokens_per_second = 1};
  CHECK(progress_line(done, 60).starts_with("[==============================] 3/3  loss nan"));
  CHECK(progress_line({.step = 9, .total_steps = 0, .loss = 1, .tokens_per_second = 1}, 60).starts_with("[>"));
}

TEST_CASE("progress: a terminal's line is redrawn, messages stay above it") {
  const std::string text = output(true, 61, [](Progress& progress) {
    progress.update(110, 2.5, 1000, 2.75);
    progress.message("saved");
    progress.update(120, 2.25, 1000);
  });
  const std::string clear = "\r\x1b[K";
  const std::string first = "110/200  loss 2.5000  val 2.7500  1.0k tokens/s  0s left";
  CHECK(text == clear + first + clear + "saved\n" + clear + first + clear + "120/200  loss 2.2500  val 2.7500  1.0k tokens/s  0s left\n");
}

TEST_CASE("progress: plain lines elsewhere") {
  const std::string text = output(false, 10, [](Progress& progress) {
    progress.update(100, 3, 10);
    progress.message("saved");
    progress.update(110, 2.5, 1000, 2.75);
    progress.finish();
  });
  CHECK(text == "step 100/200  loss 3.0000  10 tokens/s\nsaved\nstep 110/200  loss 2.5000  val 2.7500  1.0k tokens/s  0s left\n");
}

TEST_CASE("progress: durations and rates") {
  CHECK(format_duration(0) == "0s");
  CHECK(format_duration(59.4) == "59s");
  CHECK(format_duration(59.6) == "1m 00s");
  CHECK(format_duration(200) == "3m 20s");
  CHECK(format_duration(7500) == "2h 05m");
  CHECK(format_duration(3600 * 76) == "3d 4h");
  CHECK(format_duration(std::nan("")) == "?");
  CHECK(format_duration(HUGE_VAL) == "?");
  CHECK(format_duration(-1) == "0s");
  CHECK(format_rate(0) == "0");
  CHECK(format_rate(999.4) == "999");
  CHECK(format_rate(999.6) == "1.0k");
  CHECK(format_rate(52345) == "52.3k");
  CHECK(format_rate(1'204'000) == "1.20M");
  CHECK(format_rate(std::nan("")) == "?");
}

}  // namespace
}  // namespace weft
