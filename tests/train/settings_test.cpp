#include "weft/train/settings.h"

#include "train/temporary_folder.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

TEST_CASE("settings: values come back, in order") {
  TemporaryFolder folder;
  Settings settings;
  settings.set("model", "transformer");
  settings.set("dim", 128);
  settings.set("dropout", 0.1);
  settings.set("resume", false);
  settings.set("seed", uint64_t{18446744073709551615U});
  settings.set("limit", Json());
  settings.set("dim", 256);
  write_settings(folder / "config.json", settings);
  CHECK(get(folder / "config.json") ==
        "{\n  \"model\": \"transformer\",\n  \"dim\": 256,\n  \"dropout\": 0.1,\n  \"resume\": false,\n"
        "  \"seed\": 18446744073709551615,\n  \"limit\": null\n}\n");
  const Settings read = read_settings(folder / "config.json");
  CHECK(read.members() == settings.members());
  CHECK(read.text("model") == "transformer");
  CHECK(read.integer("dim") == 256);
  CHECK(read.number("dim") == 256);
  CHECK(read.number("dropout") == 0.1);
  CHECK(!read.flag("resume"));
  CHECK(read.unsigned_integer("seed") == 18446744073709551615U);
  CHECK(read.find("limit")->is_null());
  CHECK(read.find("none") == nullptr);
}

TEST_CASE("settings: errors name the file, the setting and what was found") {
  TemporaryFolder folder;
  put(folder / "c", R"({"a": "x", "b": 1.5, "c": -1})");
  const Settings settings = read_settings(folder / "c");
  const auto error = [&](auto f) { return error_of(folder, f); };
  CHECK(error([&] { settings.integer("none"); }) == "c: \"none\" is missing");
  CHECK(error([&] { settings.integer("b"); }) == "c: \"b\" should be an integer, found 1.5");
  CHECK(error([&] { settings.unsigned_integer("c"); }) == "c: \"c\" should be an integer of at least 0, found -1");
  CHECK(error([&] { settings.number("a"); }) == "c: \"a\" should be a number, found \"x\"");
  CHECK(error([&] { settings.text("b"); }) == "c: \"b\" should be a text, found 1.5");
  CHECK(error([&] { settings.flag("a"); }) == "c: \"a\" should be true or false, found \"x\"");
  CHECK(error([&] { read_settings(folder / "none"); }) == "none: cannot open: No such file or directory");
  put(folder / "c", "[1]");
  CHECK(error([&] { read_settings(folder / "c"); }) == "c: expected a JSON object");
  put(folder / "c", R"({"a": [1]})");
  CHECK(error([&] { read_settings(folder / "c"); }) == "c: \"a\" should be a number, a text or a flag, found [1]");
  put(folder / "c", R"({"a": 1, "a": 2})");
  CHECK(error([&] { read_settings(folder / "c"); }).find("stands twice") != std::string::npos);
}

TEST_CASE("settings: which ones differ") {
  Settings before, now;
  before.set("dim", 128);
  now.set("dim", 256);
  before.set("steps", 1000);
  now.set("steps", 2000);
  before.set("lr", 1);
  now.set("lr", 1.0);
  before.set("model", "transformer");
  before.set("heads", 4);
  now.set("heads", 4);
  CHECK(differing_settings(before, now, {"lr", "heads", "none"}).empty());
  CHECK(differing_settings(before, now, {"dim", "model"}) ==
        std::vector<std::string>{"dim was 128, is 256", "model was \"transformer\", is not given"});
  check_same_settings("resume", before, now, {"lr", "heads"});
  CHECK_THROWS_WITH_AS(
      check_same_settings("resume", before, now, {"heads", "dim", "model"}),
      "resume: settings differ: dim was 128, is 256; model was \"transformer\", is not given (leave them as they were, or start "
      "another run)",
      Error);
}

}  // namespace
}  // namespace weft
