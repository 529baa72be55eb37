#!/usr/bin/env python3
"""train_lm and generate_lm as a user meets them: programs_test.py BUILD_FOLDER TEXT [unittest arguments].

Runs of a tiny model on a small text: killed at random instants and resumed, interrupted, refused, out of disk space.
"""
import json
import pathlib
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BUILD, TEXT = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
SOURCE = pathlib.Path(__file__).resolve().parents[2]
# Dropout, accumulation and averages: everything that has a state of its own.
TINY = {"dim": 16, "depth": 1, "heads": 2, "context": 16, "batch": 2, "accumulate": 2, "steps": 120, "dropout": 0.1, "ema": 0.9, "warmup": 5,
        "log-every": 5, "eval-every": 20, "eval-batches": 3, "checkpoint-every": 7, "sample": 20, "threads": 1}


def train_command(run, *extra, resume=False, **settings):
    chosen = {} if resume else {"data": TEXT, **TINY}
    chosen.update({name.replace("_", "-"): value for name, value in settings.items()})
    command = [BUILD / "train_lm", "--run", run] + (["--resume"] if resume else []) + list(extra)
    return [str(c) for c in command] + [f"--{name}={value}" for name, value in chosen.items()]


def execute(command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=500, **options)


def learned(run):
    """What a repeated run must repeat: metrics without times, and the weights to the byte."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: row[key] for key in ("step", "loss", "val_loss", "lr", "grad_norm")} for row in rows]
    return kept, (run / "model.safetensors").read_bytes()


class Programs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weft-programs-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def train(self, run, *extra, code=0, options=None, **settings):
        result = execute(train_command(run, *extra, **settings), **(options or {}))
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result

    def whole_run(self):
        run = self.folder / "whole"
        self.train(run)
        return learned(run)

    def refused(self, expected, *extra, **settings):
        result = self.train(self.folder / "refused", *extra, code=1, **settings)
        self.assertIn(expected, result.stderr)
        self.assertFalse((self.folder / "refused").exists(), "a refused run leaves no folder")


class Resume(Programs):
    def test_kill_at_any_instant(self):
        start = time.monotonic()
        expected = self.whole_run()
        seconds = time.monotonic() - start
        seed = random.randrange(1 << 30)
        draw = random.Random(seed)
        run = self.folder / "killed"
        for _ in range(12):
            resume = any((run / "checkpoint").glob("step-*.safetensors")) if run.exists() else False
            process = subprocess.Popen(train_command(run, resume=resume), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(0, seconds / 3))
            process.kill()
            process.wait()
        if any((run / "checkpoint").glob("step-*.safetensors")):
            self.train(run, resume=True)
        else:
            self.train(run)
        self.assertEqual(learned(run), expected, f"seed {seed}")
        self.assertEqual([p for p in run.rglob("*weft-tmp*")], [], "nothing of the killed writers is left")

    def test_interrupt(self):
        expected = self.whole_run()
        for number in (signal.SIGINT, signal.SIGTERM):
            run = self.folder / number.name
            process = subprocess.Popen(train_command(run, checkpoint_every=0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 2):
                self.assertIsNone(process.poll())
                time.sleep(0.002)
            process.send_signal(number)
            output, errors = process.communicate(timeout=100)
            self.assertEqual(process.returncode, 128 + number, output)
            self.assertIn(f"train_lm --run {run} --resume", output)
            self.assertIn("once more to quit without saving", errors)
            self.train(run, resume=True)
            self.assertEqual(learned(run), expected)

    def test_interrupt_between_batches(self):
        """A step of many batches ends in its midst; the run that goes on does it again, to the same bits."""
        settings = {"accumulate": 300, "steps": 4, "log_every": 1, "eval_every": 0}
        whole, run = self.folder / "whole", self.folder / "run"
        self.train(whole, **settings)
        process = subprocess.Popen(train_command(run, **settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 1):
            self.assertIsNone(process.poll())
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.communicate(timeout=100)[0].count("stopped after step"), 1)
        self.train(run, resume=True)
        self.assertEqual(learned(run), learned(whole))

    def test_hang_up_and_closed_pipe(self):
        for number in (signal.SIGHUP, signal.SIGPIPE):
            run = self.folder / number.name
            process = subprocess.Popen(train_command(run, checkpoint_every=0, steps=100000), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 2):
                self.assertIsNone(process.poll())
                time.sleep(0.002)
            process.send_signal(number)
            self.assertEqual(process.wait(timeout=100), 128 + number)
            self.assertGreater(int(next((run / "checkpoint").iterdir()).name[5:14]), 0)

    def test_steps_that_are_done(self):
        run = self.folder / "run's"
        self.train(run, steps=10)
        before = learned(run), (run / "config.json").read_text()
        self.assertIn("has done 10 steps already, and --steps is 5", self.train(run, resume=True, steps=5, code=1).stderr)
        self.assertEqual((learned(run), (run / "config.json").read_text()), before)
        self.assertIn("all steps are done (10); to go on, give more with --steps", self.train(run, resume=True).stdout)
        self.assertEqual(learned(run), before[0])

    def test_more_steps(self):
        run = self.folder / "more"
        self.train(run, steps=20, schedule="constant")
        self.train(run, resume=True, steps=40)
        whole = self.folder / "at-once"
        self.train(whole, steps=40, schedule="constant")
        self.assertEqual(learned(run), learned(whole))

    def test_what_must_not_change(self):
        run = self.folder / "run"
        self.train(run, steps=10)
        before = learned(run)
        self.assertIn("dim was 16, is 32", self.train(run, resume=True, dim=32, code=1).stderr)
        self.assertIn('attention was "dot_product", is "local"', self.train(run, resume=True, attention="local", code=1).stderr)
        other = self.folder / "other.txt"
        other.write_bytes(TEXT.read_bytes()[:-1000])
        self.assertIn("is not the text that this run has learned from", self.train(run, resume=True, data=other, code=1).stderr)
        self.assertIn("holds a run of 10 steps", self.train(run, code=1).stderr)
        self.assertEqual(learned(run), before)
        self.train(run, "--overwrite", steps=5)
        self.assertEqual(json.loads((run / "config.json").read_text())["steps"], 5)


    def test_config_that_was_edited(self):
        run = self.folder / "run"
        self.train(run, steps=10)
        before, config = learned(run), run / "config.json"
        written = config.read_text()
        for name, old, new in (("dim", 16, 32), ("heads", 2, 4), ("seed", 1, 2), ("attention", '"dot_product"', '"local"')):
            config.write_text(written.replace(f'"{name}": {old}', f'"{name}": {new}'))
            errors = self.train(run, resume=True, steps=20, code=1).stderr
            self.assertIn(f"config.json does not fit the checkpoint: settings differ: {name} was {old}, is {new}", errors)
        config.write_text(written.replace('"warmup"', '"warmpu"'))
        self.assertIn('config.json: unknown setting "warmpu"; did you mean "warmup"?', self.train(run, resume=True, code=1).stderr)
        config.unlink()
        self.assertIn("put the file back, or replace the run", self.train(run, resume=True, code=1).stderr)
        self.assertEqual(learned(run), before)
        config.write_text(written)
        self.train(run, resume=True, steps=20)
        shutil.rmtree(run / "checkpoint")
        self.assertIn("--overwrite instead of --resume", self.train(run, resume=True, code=1).stderr)
        self.train(run, "--overwrite", steps=1)

    def test_how_to_go_on(self):
        """The command that a message gives works as it stands."""
        run = self.folder / "run"
        process = subprocess.Popen(train_command(run, steps=100000), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 1):
            self.assertIsNone(process.poll())
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=100)[0]
        done = int(output.split("stopped after step ")[1].split()[0])
        command = shlex.split(output.split("To go on: ")[1])
        self.assertEqual(execute([*command, "--steps", done + 1]).returncode, 0)


class Refusals(Programs):
    def test_data(self):
        empty, short = self.folder / "empty.txt", self.folder / "short.txt"
        empty.write_bytes(b"")
        short.write_text("too short")
        self.refused("missing.txt: cannot open: No such file or directory", data=self.folder / "missing.txt")
        self.refused("empty.txt: the file is empty", data=empty)
        self.refused("the text is too short", data=short)
        self.assertIn("--data is missing", execute([BUILD / "train_lm", "--run", self.folder / "refused"]).stderr)

    def test_model(self):
        self.refused("dim (16) must be divisible by heads (3)", heads=3)
        self.refused('did you mean "transformer"?', model="transfomer")
        self.refused('did you mean "local"?', attention="locl:window=4")
        self.refused("dropout must be", dropout=1)
        self.refused("cuda", device="cuda:99")

    def test_settings(self):
        self.refused("--optimizer cannot be \"adamv\"; did you mean \"adamw\"?", optimizer="adamv")
        self.refused("did you mean \"--steps\"?", stesp=3)
        self.refused("--batch must be at least 1, got 0", batch=0)
        self.refused("--accumulate must be at most 100000, got 1000000", accumulate=1000000)
        self.refused("--depth must be at most 10000, got 1000000", depth=1000000)
        self.refused("--depth 10000 with --dim 1024 makes a model of 12", depth=10000, dim=1024)
        self.refused("--dim is given 2 times; give it once", "--dim", "64")
        self.assertIn("--run is empty", self.train("", code=1).stderr)
        self.assertIn("--run is empty", execute(train_command("", resume=True)).stderr)
        self.refused("--threads must be at most 1024, got 4294967296", threads=1 << 32)
        self.refused("--lr must be 0 or positive, and finite, got inf", lr="inf")
        self.refused('--dim expects an integer, got "abc"', dim="abc")
        self.refused('--seed expects an integer, got "18446744073709551615"', seed=(1 << 64) - 1)
        self.refused('--steps expects an integer, got "0x10"', steps="0x10")
        run = self.folder / "run"
        self.train(run, steps="010")
        self.assertEqual(json.loads((run / "config.json").read_text())["steps"], 10)
        result = execute(train_command(self.folder / "none", resume=True))
        self.assertEqual(result.returncode, 1)
        self.assertIn("resume: there is no run in", result.stderr)

    def test_folder(self):
        (self.folder / "file").write_text("")
        self.assertIn("cannot create the folder", self.train(self.folder / "file" / "run", code=1).stderr)

    def test_name_that_is_not_utf8(self):
        name = bytes(self.folder) + b"/bad\xff"
        result = subprocess.run([c.encode() for c in train_command("RUN")[:2]] + [name, b"--data", bytes(TEXT)], capture_output=True)
        self.assertEqual((result.returncode, result.stderr), (1, b"train_lm: --run is not valid UTF-8\n"))

    def test_files_of_another_origin(self):
        run = self.folder / "run"
        run.mkdir()
        for name in ("model.safetensors", "config.json", "tokenizer.json", "sample.txt", "metrics.jsonl"):
            (run / name).write_text("precious")
            self.assertIn(f"files that a run would replace ({name})", self.train(run, code=1).stderr)
            self.assertEqual([(p.name, p.read_text()) for p in run.iterdir()], [(name, "precious")])
            (run / name).unlink()
        shutil.copy(TEXT, run / "sample.txt")
        for extra in ((), ("--overwrite",)):
            self.assertIn("is a file that the run itself writes", self.train(run, *extra, data=run / "sample.txt", code=1).stderr)
        self.assertEqual((run / "sample.txt").read_bytes(), TEXT.read_bytes())
        self.train(run, "--overwrite", steps=2)

    def test_help_lists_every_setting(self):
        text = execute([BUILD / "train_lm", "--help"]).stdout
        self.assertIn("Usage: train_lm ", text)
        for name in TINY:
            self.assertIn(f"--{name}", text)


class Failures(Programs):
    def test_no_space(self):
        """A limit on file sizes: the first checkpoint fits, the one with moments and averages does not."""
        expected = self.whole_run()
        run = self.folder / "full"
        self.train(run, steps=0, dim=16)
        size = next((run / "checkpoint").iterdir()).stat().st_size
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, size + 1000))
        result = self.train(run, code=1, options={"preexec_fn": limit})
        self.assertIn("The last checkpoint, of step 0, is whole", result.stderr)
        self.train(run, resume=True)
        self.assertEqual(learned(run), expected)

    def test_no_space_for_another_run(self):
        run = self.folder / "run"
        self.train(run, steps=10)
        files = lambda: {p.name: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        before = files()
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        result = self.train(run, "--overwrite", code=1, options={"preexec_fn": limit})
        self.assertIn("what the folder held is untouched", result.stderr)
        self.assertEqual(files(), before)
        self.train(self.folder / "new", code=1, options={"preexec_fn": limit})
        self.assertFalse((self.folder / "new").exists())

    def test_killed_start(self):
        run = self.folder / "run"
        self.train(run, steps=0)
        (run / "checkpoint").rename(run / "checkpoint.new")  # killed just before its last move
        self.train(run, steps=5)
        self.assertFalse((run / "checkpoint.new").exists())

    def test_damaged_checkpoint(self):
        run = self.folder / "run"
        self.train(run, steps=5)
        next((run / "checkpoint").iterdir()).write_bytes(b"")
        self.assertIn("Start the run again with --overwrite", self.train(run, resume=True, code=1).stderr)

    def test_standard_streams(self):
        run = self.folder / "run"
        command = [*train_command(run, steps=5)]
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
            self.assertEqual(result.returncode, 1)
            self.assertIn("train_lm: standard output cannot be written", result.stderr)
            self.assertEqual(subprocess.run([BUILD / "train_lm", "--resume", "--run", "none"], stderr=full).returncode, 1)
            generate = [BUILD / "generate_lm", "--run", run, "--tokens", "5"]
            result = subprocess.run(generate, stdout=full, stderr=subprocess.PIPE, text=True)
            self.assertEqual(result.returncode, 1)
            self.assertIn("generate_lm: standard output cannot be written", result.stderr)
            self.assertEqual(subprocess.run([BUILD / "generate_lm", "--help"], stdout=full, stderr=full).returncode, 1)
            self.assertEqual(subprocess.run(generate, stdout=subprocess.DEVNULL, stderr=full).returncode, 0)
        closed = lambda command: subprocess.run(["bash", "-c", '"$@" <&- 2>&-', "bash", *command], stdout=subprocess.DEVNULL).returncode
        self.assertEqual(closed([*command, "--overwrite"]), 0)
        self.assertEqual([row["step"] for row in learned(run)[0]], [5], "only metrics in metrics.jsonl")
        self.assertEqual(closed([BUILD / "train_lm", "--data", "none"]), 1)

    def test_not_finite(self):
        run = self.folder / "not finite"
        result = self.train(run, model="transformer:init_std=1e30", lr=1e30, code=1)
        self.assertIn("step 1: the loss is", result.stderr)
        self.assertIn("anomaly: the forward of", result.stderr)
        self.assertIn("The last checkpoint, of step 0, is whole", result.stderr)
        self.assertIn(f"train_lm --run {shlex.quote(str(run))} --resume --lr 0.001", result.stderr)


class Generate(Programs):
    def test_text(self):
        run = self.folder / "run"
        self.train(run, steps=10)
        generate = lambda *extra: execute([BUILD / "generate_lm", "--run", run, "--threads", 1, *extra])
        a = generate("--prompt", "THE ", "--tokens", 30, "--seed", 3)
        self.assertEqual((a.returncode, a.stdout[:4], len(a.stdout)), (0, "THE ", 35), a.stderr)  # and a line end
        self.assertEqual(generate("--prompt", "THE ", "--tokens", 30, "--seed", 3).stdout, a.stdout)
        self.assertNotEqual(generate("--prompt", "THE ", "--tokens", 30, "--seed", 4).stdout, a.stdout)
        self.assertEqual(generate("--tokens", 5, "--top-k", 1, "--top-p", 0.9, "--min-p", 0.1).returncode, 0)
        unknown = generate("--prompt", "\u4e16")
        self.assertEqual(unknown.returncode, 1)
        self.assertIn("is not among the", unknown.stderr)
        self.assertIn("top_p must be in (0, 1]", generate("--top-p", 0).stderr)
        self.assertIn("--threads must be at most 1024", execute([BUILD / "generate_lm", "--threads", 100000]).stderr)
        config = run / "config.json"
        written = config.read_text()
        for old, new, expected in (('"float32"', '"int8"', 'config.json: --dtype cannot be "int8"'),
                                   ('"dropout"', '"droput"', 'config.json: unknown setting "droput"; did you mean "dropout"?'),
                                   ('"heads": 2', '"heads": 4', "config.json: heads is 4, but the weights in"),
                                   ('"dim": 16', '"dim": 32', "model.safetensors does not fit the model of")):
            config.write_text(written.replace(old, new))
            result = generate()
            self.assertEqual(result.returncode, 1)
            self.assertIn(expected, result.stderr)
        self.assertIn("--run is empty", execute([BUILD / "generate_lm", "--run", ""]).stderr)
        self.assertIn("there is no run in", execute([BUILD / "generate_lm", "--run", self.folder / "none"]).stderr)


class Cuda(Programs):
    """The programs with --device cuda. A run says what the same run on the CPU does, and goes on there."""
    settings = {"schedule": "constant", "steps": 20, "eval_every": 10}

    def assert_close(self, run, expected):
        rows, other_rows = learned(run)[0], learned(expected)[0]
        self.assertEqual([row["step"] for row in rows], [row["step"] for row in other_rows])
        for row, other in zip(rows, other_rows):
            for key in ("loss", "val_loss", "grad_norm"):
                self.assertEqual(row[key] is None, other[key] is None)
                if row[key] is not None:
                    self.assertAlmostEqual(row[key] / other[key], 1, delta=1e-5 if key != "grad_norm" else 1e-4)

    def test_resume_on_the_other_device(self):
        whole = self.folder / "whole"
        self.train(whole, **self.settings)
        for first, second in (("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")):
            run = self.folder / f"{first}-{second}"
            self.train(run, **{**self.settings, "steps": 10}, device=first)
            self.train(run, resume=True, steps=20, device=second)
            self.assertEqual(json.loads((run / "config.json").read_text())["device"], second)
            self.assert_close(run, whole)
        at_once = self.folder / "at-once"
        self.train(at_once, **self.settings, device="cuda")
        self.assertEqual(learned(at_once), learned(self.folder / "cuda-cuda"))

    def test_half_precision(self):
        full = self.folder / "float32"
        self.train(full, **self.settings)
        for dtype in ("bfloat16", "float16"):
            run, whole = self.folder / dtype, self.folder / f"{dtype}-whole"
            self.assertIn("on CUDA only", self.train(run, **self.settings, dtype=dtype, code=1).stderr)
            self.train(run, **{**self.settings, "steps": 10}, dtype=dtype, device="cuda")
            self.train(run, resume=True, steps=20)
            self.train(whole, **self.settings, dtype=dtype, device="cuda")
            self.assertEqual(learned(run), learned(whole))
            self.assertIn("this run goes on with --device cuda", self.train(run, resume=True, steps=25, device="cpu", code=1).stderr)
            last, expected = learned(run)[0][-1], learned(full)[0][-1]
            self.assertAlmostEqual(last["loss"] / expected["loss"], 1, delta=0.01)
            self.assertEqual(execute([BUILD / "generate_lm", "--run", run, "--tokens", 5]).returncode, 0, "the CPU reads it, too")

    def test_generate(self):
        run = self.folder / "run"
        self.train(run, steps=20)
        texts = set()
        for device in ("cpu", "cuda"):
            result = execute([BUILD / "generate_lm", "--run", run, "--tokens", 30, "--seed", 3, "--device", device])
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"device {device}", result.stderr)
            texts.add(result.stdout)
        self.assertEqual(len(texts), 1, texts)

    def test_golden(self):
        result = execute([BUILD / "weft_golden", "--device", "cuda", SOURCE / "tests/golden/torch"])
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout.splitlines()[-1], r"^[1-9]\d* passed, 0 failed$")

    @unittest.skipUnless((BUILD / "weft_bench").exists(), "the benchmarks are not built")
    def test_bench(self):
        result = execute([BUILD / "weft_bench", "--device", "cuda", "--only", "sdpa_f_n512_causal"])
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["case"] for line in result.stdout.splitlines()], ["sdpa_f_n512_causal"])


def without_gpu():
    with tempfile.TemporaryDirectory() as folder:
        return "no CUDA device was found" in execute(train_command(pathlib.Path(folder) / "run", steps=0, device="cuda")).stderr


if __name__ == "__main__":
    if sys.argv[3:4] == ["Cuda"] and without_gpu():
        print("Skipped: no GPU")
        sys.exit(77)  # as ctest is told
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:])
