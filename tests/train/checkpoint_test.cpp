#include "weft/train/checkpoint.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <limits>
#include <thread>

#include "train/temporary_folder.h"
#include "weft/train/files.h"

namespace weft {
namespace {

Checkpoint sample(int64_t step, int64_t n = 33) {
  Checkpoint checkpoint{.step = step, .tensors = {}, .state = {}};
  checkpoint.add("model", {{"weight", full({n, 7}, static_cast<double>(step))}, {"bias", full({7}, 0.5)}});
  checkpoint.add("optimizer", {{"0.step", from_vector<int64_t>({step}, {})}, {"0.exp_avg", full({n, 7}, 0.25)}});
  checkpoint.state.set("seed", std::numeric_limits<uint64_t>::max());
  checkpoint.state.set("offset", step * 3);
  checkpoint.state.set("lr", 0.1);
  checkpoint.state.set("data", "tales é");
  return checkpoint;
}

bool same(const Checkpoint& a, const Checkpoint& b) {
  bool equal = a.step == b.step && a.state.members() == b.state.members() && a.tensors.size() == b.tensors.size();
  for (size_t i = 0; equal && i < a.tensors.size(); ++i) {
    const auto& [name, x] = a.tensors[i];
    const auto& [other_name, y] = b.tensors[i];
    equal = name == other_name && x.shape() == y.shape() && x.dtype() == y.dtype() &&
            checksum(to_host(x).raw(), x.bytes()) == checksum(to_host(y).raw(), y.bytes());
  }
  return equal;
}

TEST_CASE("checkpoint: everything comes back to the bit") {
  TemporaryFolder folder;
  CHECK(!load_checkpoint(folder / "c"));
  save_checkpoint(folder / "c", sample(12));
  const auto loaded = load_checkpoint(folder / "c");
  REQUIRE(loaded);
  CHECK(same(*loaded, sample(12)));
  CHECK(loaded->state.unsigned_integer("seed") == std::numeric_limits<uint64_t>::max());
  CHECK(loaded->state.number("lr") == 0.1);
  const auto model = loaded->part("model");
  REQUIRE(model.size() == 2);
  CHECK(model[0].first == "weight");
  CHECK(model[1].second.to_vector<float>() == std::vector<float>(7, 0.5F));
  CHECK(loaded->part("ema").empty());
}

TEST_CASE("checkpoint: the last ones are kept, the highest step is loaded") {
  TemporaryFolder folder;
  for (int64_t step : {5, 20, 100}) save_checkpoint(folder.path(), sample(step), 2);
  CHECK(folder.entries() == 2);
  CHECK(load_checkpoint(folder.path())->step == 100);
  save_checkpoint(folder.path(), sample(100), 2);  // the same step again
  CHECK(folder.entries() == 2);
  save_checkpoint(folder.path(), sample(1'234'567'890'123));
  CHECK(folder.entries() == 1);
  CHECK(load_checkpoint(folder.path())->step == 1'234'567'890'123);
  save_checkpoint(folder.path(), sample(50));  // later ones belong to a future that was left
  CHECK(folder.entries() == 1);
  CHECK(load_checkpoint(folder.path())->step == 50);

  put(folder / "notes.txt", "kept");
  remove_checkpoints(folder.path());
  CHECK(folder.entries() == 1);
  CHECK(!load_checkpoint(folder.path()));
  remove_checkpoints(folder / "none");
}

TEST_CASE("checkpoint: a damaged file is passed over, leftovers go") {
  TemporaryFolder folder;
  for (int64_t step : {1, 2, 3}) save_checkpoint(folder.path(), sample(step), 3);
  put(folder / ".step-000000004.safetensors.weft-tmp-1-0", "half");
  put(folder / "step-x.safetensors", "not ours");
  std::string content = get(folder / "step-000000003.safetensors");
  content[content.size() - 5] ^= 1;  // one bit of one weight
  put(folder / "step-000000003.safetensors", content);
  put(folder / "step-000000002.safetensors", "short");

  std::vector<std::string> skipped;
  const auto loaded = load_checkpoint(folder.path(), &skipped);
  REQUIRE(loaded);
  CHECK(same(*loaded, sample(1)));
  REQUIRE(skipped.size() == 2);
  CHECK(skipped[0].ends_with("step-000000003.safetensors: damaged: the checksum does not match the contents"));
  CHECK(skipped[1].ends_with("step-000000002.safetensors: not a safetensors file: it has 5 bytes"));
  CHECK(folder.entries() == 4);

  put(folder / "step-000000001.safetensors", "");
  const std::string message = error_of(folder, [&] { load_checkpoint(folder.path()); });
  CHECK(message.find(": no checkpoint can be read:\n  step-000000003.safetensors: damaged") != std::string::npos);
  save_checkpoint(folder.path(), sample(2));  // a run that goes on from step 1 replaces what is damaged
  CHECK(load_checkpoint(folder.path())->step == 2);
}

TEST_CASE("checkpoint: errors") {
  TemporaryFolder folder;
  CHECK_THROWS_WITH_AS(save_checkpoint(folder.path(), sample(-1)), "save_checkpoint: the step must not be negative, got -1", Error);
  CHECK_THROWS_WITH_AS(save_checkpoint(folder.path(), sample(1), 0), "save_checkpoint: at least one checkpoint is kept, got 0", Error);
  Checkpoint undefined = sample(1);
  undefined.tensors[0].second = {};
  CHECK_THROWS_WITH_AS(save_checkpoint(folder.path(), undefined), "save_checkpoint: tensor \"model.weight\" is undefined", Error);
  CHECK(folder.entries() == 0);
  put(folder / "file", "");
  CHECK(error_of(folder, [&] { save_checkpoint(folder / "file" / "c", sample(1)); }) ==
        "file/c: cannot create the folder: Not a directory");

  save_checkpoint(folder / "c", sample(7));
  std::filesystem::rename(folder / "c" / "step-000000007.safetensors", folder / "c" / "step-000000008.safetensors");
  CHECK(error_of(folder, [&] { load_checkpoint(folder / "c"); }).ends_with("c/step-000000008.safetensors: the checkpoint is of step 7"));
  std::filesystem::copy(std::string(WEFT_TEST_DATA) + "/golden/attentions/core.safetensors", folder / "c" / "step-000000009.safetensors");
  CHECK(error_of(folder, [&] {
          load_checkpoint(folder / "c");
        }).find("c/step-000000009.safetensors: not a checkpoint: it has no \"state\"") != std::string::npos);
}

TEST_CASE("checkpoint: a full disk leaves the last one") {
  TemporaryFolder folder;
  save_checkpoint(folder.path(), sample(1));
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  auto* handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit full{20'000, limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &full);
  const std::string message = error_of(folder, [&] { save_checkpoint(folder.path(), sample(2, 5000)); });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  ::signal(SIGXFSZ, handler);
  CHECK(message == "step-000000002.safetensors: cannot write: File too large");
  CHECK(folder.entries() == 1);
  CHECK(same(*load_checkpoint(folder.path()), sample(1)));
}

TEST_CASE("checkpoint: killed at any instant, a whole checkpoint is there") {
  TemporaryFolder folder;
  save_checkpoint(folder.path(), sample(0, 3000));
  int64_t last = 0, moved = 0;
  for (int round = 0; round < 25 || (moved == 0 && round < 200); ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      set_num_threads(1);  // the pool's threads are not in the child
      for (int64_t step = last + 1;; ++step) save_checkpoint(folder.path(), sample(step, 3000));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(300 + 900 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    std::vector<std::string> skipped;
    const auto loaded = load_checkpoint(folder.path(), &skipped);
    REQUIRE(loaded);
    CHECK(skipped.empty());
    CHECK(loaded->step >= last);
    CHECK(same(*loaded, sample(loaded->step, 3000)));
    moved += loaded->step > last ? 1 : 0;
    last = loaded->step;
  }
  CHECK(moved > 0);
  save_checkpoint(folder.path(), sample(last, 3000));
  CHECK(folder.entries() == 1);  // what a writer that was killed after its rename did not remove
}

TEST_CASE("checkpoint: thousands of damaged files are found") {
  TemporaryFolder folder;
  save_checkpoint(folder.path(), sample(3));
  const std::string good = get(folder / "step-000000003.safetensors");
  const int loads = count_loads(2000, [&](uint64_t seed) {
    put(folder / "step-000000003.safetensors", damaged(good, seed, seed % 2 == 0 ? 700 : 0));
    const auto loaded = load_checkpoint(folder.path());
    CHECK(same(*loaded, sample(3)));  // what loads is right: only spaces of the header may differ
  });
  CHECK(loads < 200);
}

}  // namespace
}  // namespace weft
