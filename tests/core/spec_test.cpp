#include "weft/core/spec.h"

#include <doctest/doctest.h>

#include "weft/core/error.h"

TEST_SUITE_BEGIN("host");

using namespace weft;

TEST_CASE("Spec: a name alone, and options with what stands for those that are not given") {
  Spec plain("attention", "local");
  CHECK(plain.name() == "local");
  CHECK(plain.integer("window", 128) == 128);
  CHECK(plain.number("scale", 0.5) == 0.5);
  CHECK(plain.flag("overlap", true));
  CHECK(plain.text("file", "none") == "none");
  CHECK(plain.choice("kind", "elu", {"elu", "relu"}) == "elu");
  CHECK_NOTHROW(plain.check_all_used());

  Spec full("attention", "linear:window=-3,scale=2.5e-1,overlap=false,file=a=b:c,kind=relu,empty=");
  CHECK(full.name() == "linear");
  CHECK(full.integer("window", 128) == -3);
  CHECK(full.number("scale", 0.5) == 0.25);
  CHECK_FALSE(full.flag("overlap", true));
  CHECK(full.text("file", "none") == "a=b:c");
  CHECK(full.choice("kind", "elu", {"elu", "relu"}) == "relu");
  CHECK(full.text("empty", "none").empty());
  CHECK_NOTHROW(full.check_all_used());
}

TEST_CASE("Spec: what cannot be parsed") {
  const auto parse = [](const char* text) { Spec("model", text); };
  CHECK_THROWS_WITH_AS(parse("gpt:rope"), doctest::Contains("model gpt: expected option=value after the colon, got \"rope\""), Error);
  CHECK_THROWS_WITH_AS(parse("gpt:=3"), doctest::Contains("expected option=value after the colon, got \"=3\""), Error);
  CHECK_THROWS_WITH_AS(parse("gpt:a=1,"), doctest::Contains("expected option=value after the colon, got \"\""), Error);
  CHECK_THROWS_WITH_AS(parse("gpt:"), doctest::Contains("expected option=value after the colon, got \"\""), Error);
  CHECK_THROWS_WITH_AS(parse("gpt:a=1,b=2,a=3"), doctest::Contains("model gpt: option a is given twice"), Error);
}

TEST_CASE("Spec: values of the wrong kind name the option") {
  Spec spec("model", "gpt:depth=six,wide=1.5,many=99999999999999999999,mult=2x,tied=yes,norm=lyer");
  CHECK_THROWS_WITH_AS(spec.integer("depth", 1), doctest::Contains("model gpt: depth expects an integer, got \"six\""), Error);
  CHECK_THROWS_WITH_AS(spec.integer("wide", 1), doctest::Contains("wide expects an integer, got \"1.5\""), Error);
  CHECK_THROWS_WITH_AS(spec.integer("many", 1), doctest::Contains("many expects an integer"), Error);
  CHECK_THROWS_WITH_AS(spec.number("mult", 1), doctest::Contains("model gpt: mult expects a number, got \"2x\""), Error);
  CHECK_THROWS_WITH_AS(spec.flag("tied", false), doctest::Contains("tied cannot be \"yes\"; known: true, false"), Error);
  CHECK_THROWS_WITH_AS(spec.choice("norm", "rms", {"layer", "rms"}),
                       doctest::Contains("norm cannot be \"lyer\"; did you mean \"layer\"? known: layer, rms"), Error);
}

TEST_CASE("Spec: options that nobody asked for, and unknown names") {
  Spec spec("attention", "local:widow=3");
  CHECK_THROWS_WITH_AS(spec.check_all_used(), doctest::Contains("attention local: unknown option \"widow\"; it takes none"), Error);
  spec.integer("window", 1);
  spec.flag("overlap", false);
  CHECK_THROWS_WITH_AS(spec.check_all_used(),
                       doctest::Contains("unknown option \"widow\"; did you mean \"window\"? known: window, overlap"), Error);
  CHECK_THROWS_WITH_AS(Spec("attention", "locl").fail_unknown({"alibi", "local"}),
                       doctest::Contains("attention: unknown name \"locl\"; did you mean \"local\"? known: alibi, local"), Error);
  CHECK_THROWS_WITH_AS(Spec("attention", "").fail_unknown({"local"}), doctest::Contains("attention: unknown name \"\""), Error);
  CHECK(suggest("completely different", {"alibi", "local"}) == "known: alibi, local");
}
