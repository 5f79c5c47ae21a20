"""Launchers as a user starts them: the deepspeed command, bad input, interrupted preparation."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prealign.config.loading import dump_recipe
from prealign.data.prepared import open_data
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.processes import ROOT, finish, free_port, start


def launch(*arguments: str) -> tuple[int, str, str]:
    return finish(start(list(arguments)))


@pytest.fixture
def config(data_dir: Path, tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(data_dir, run_dir=str(tmp_path / "run"))))
    return str(path)


def test_print_resolved_recipe(config: str) -> None:
    code, out, _ = launch("-m", "prealign.config", config, "model.layers=7")
    assert code == 0
    assert yaml.safe_load(out)["model"]["layers"] == 7


def test_check_prints_the_plan_and_trains_nothing(config: str, tmp_path: Path) -> None:
    """Options and changes of the recipe in any order."""
    changes = ("align.global_batch_size=4", "--check", "seed=3", "--ranks", "2", "name=other")
    code, out, err = launch("launchers/pretrain.py", "--config", config, *changes)
    assert code == 0, err
    assert "align: a step is 128 tokens = 2 sequences x 32 tokens x 1 micro-batches x 2 ranks" in out
    assert "pretrain: a step is 512 tokens = 4 sequences x 32 tokens x 2 micro-batches x 2 ranks" in out
    assert "align: 40 steps" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "{config}", "model.headz=1"], "unknown key; did you mean 'heads'"),
        (
            ["--config", "{config}", "--check", "--ranks", "5"],
            "batch: found global_batch_size=16 on 5 ranks; expected a multiple",
        ),
        (["--config", "{config}", "data.dir=/nowhere"], "no such tokenizer; run launchers/prepare.py"),
        (["--config", "{config}", "data.tokenizer.vocab_size=601"], "found 601"),
        (
            ["--config", "{config}", "stages=[pretrain]", "pretrain.init_from=/nowhere"],
            "expected a finished align stage",
        ),
        (["--config", "{config}", "model.attention=flash"], "flash-attn is not installed"),
        (["--config", "nothing"], "no such file"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(config: str, arguments: list[str], message: str) -> None:
    code, _, err = launch("launchers/pretrain.py", *(argument.format(config=config) for argument in arguments))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


def test_a_damaged_artefact_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tmp_path / "data", run_dir=str(tmp_path / "run"))))
    assert launch("launchers/prepare.py", "--config", str(path))[0] == 0
    store = tmp_path / "data" / "en" / "train.bin"
    content = store.read_bytes()
    store.write_bytes(content[:-2])
    code, _, err = launch("launchers/pretrain.py", "--config", str(path))
    assert code == 2
    assert "train.bin: found" in err
    store.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    code, _, err = launch("launchers/pretrain.py", "--config", str(path), "--check")
    assert code == 2
    assert "train.bin: found SHA-256" in err


def test_deepspeed_command(config: str, tmp_path: Path) -> None:
    """The documented command, on two processes, and its exit code for a mistake."""
    command = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command += ["--master_port", str(free_port()), "launchers/pretrain.py", "--config", config]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "finished: " in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["lm_loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5
    elsewhere = f"run_dir={tmp_path / 'elsewhere'}"
    for changes, message in [
        (
            ["batch.global_batch_size=15", elsewhere],
            "batch: found global_batch_size=15 on 2 ranks; expected a multiple of 2",
        ),
        (
            ["align.global_batch_size=3", elsewhere],
            "align: found global_batch_size=3 on 2 ranks; expected a multiple of 2",
        ),
        (["seed=2"], "recipe.yaml: the run there has seed=1; the recipe has seed=2"),
    ]:
        wrong = subprocess.run(
            [*command, *changes], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert wrong.returncode == 2
        assert wrong.stderr.count("error: ") == 1
        assert message in wrong.stderr
        assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_two_nodes_without_ssh(config: str, tmp_path: Path) -> None:
    """The documented command for nodes that do not reach each other by ssh: two names of this machine, one process
    each; the run is the same as that of one process."""
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    port = str(free_port())
    nodes = []
    for number in ("0", "1"):
        command = [str(Path(sys.executable).with_name("deepspeed")), "--hostfile", str(hostfile), "--no_ssh"]
        command += ["--node_rank", number, "--master_addr", "127.0.0.1", "--master_port", port]
        command += ["launchers/pretrain.py", "--config", config, f"run_dir={tmp_path / 'nodes'}"]
        nodes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    outputs = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert launch("launchers/pretrain.py", "--config", config, f"run_dir={tmp_path / 'one'}")[0] == 0
    two, one = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("nodes", "one")
    )
    assert [row["lm_loss"] for row in two if row["kind"] == "train"] == pytest.approx(
        [row["lm_loss"] for row in one if row["kind"] == "train"], rel=1e-5
    )


def test_benchmark_writes_a_record(config: str, tmp_path: Path) -> None:
    record = tmp_path / "b.json"
    arguments = ["--steps", "1", "--warmup", "1", "--json", str(record)]
    for source in ("synthetic", "real"):
        code, out, err = launch("launchers/benchmark.py", "--config", config, "--data", source, *arguments)
        assert code == 0, err
        assert "N/A" in out  # the MFU of a processor that is not listed
        measured = json.loads(record.read_text())
        assert measured["peak_tflops_per_device"] is None
        for stage in ("align", "pretrain"):
            numbers = measured["stages"][stage]
            assert numbers["mfu"] is None
            assert numbers["tokens_per_second"] > 0
            tokens = numbers["tokens_per_second"] * numbers["seconds_per_step"]
            assert tokens == pytest.approx(measured["global_batch_size"] * 32)
            assert all(seconds > 0 for seconds in numbers["seconds"].values())  # of another step than the rate
        assert measured["stages"]["align"]["words_per_step"] > 0


def test_preparation_killed_at_any_moment_is_made_good(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "data")
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    for _ in range(5):
        process = start(["launchers/prepare.py", "--config", str(path)])[0]
        time.sleep(random.uniform(0.5, 3.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert launch("launchers/prepare.py", "--config", str(path))[0] == 0
    assert open_data(recipe).fingerprint == open_data(tiny_recipe(data_dir)).fingerprint
    names = {entry.name for entry in (tmp_path / "data").iterdir()}
    table = {"words", "translations", "lexicon", "coverage"}
    assert names == {".input_hashes.json", ".lock", "tokenizer", "en", "clone", "codeswitch"} | table


@pytest.mark.parametrize("at", ["tokenizer", ".en.partial"])
def test_control_c_ends_preparation_at_once_and_keeps_what_it_did(tmp_path: Path, at: str) -> None:
    """The terminal's signal reaches every process of the group, working ones too."""
    lines = [line for path in sorted(SAMPLE_TEXT.glob("*.jsonl")) for line in path.read_text().splitlines()]
    texts = [json.loads(line)["text"] + f" {number}" for number in range(8) for line in lines]
    (tmp_path / "en.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    english = {"tokens": 40_960, "text": {"files": [str(tmp_path / "en.jsonl")]}}
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tmp_path / "data", languages={"en": english})))
    command = [sys.executable, "launchers/prepare.py", "--config", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    default = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **default)
    while process.poll() is None and not list((tmp_path / "data").glob(f"*{at}*")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert finish(start(command[1:]))[0] == 0


def test_hard_text_goes_through(tmp_path: Path) -> None:
    """Ten megabytes in one line, a million spaces, undecodable bytes: legal text, prepared and trained on."""
    text = tmp_path / "text"
    text.mkdir()
    novel = (SAMPLE_TEXT / "persuasion.jsonl").read_bytes()
    (text / "a.jsonl").write_bytes(novel)
    (text / "b.jsonl").write_bytes(json.dumps({"text": "one line " * 1_150_000}).encode() + b"\n")
    (text / "c.jsonl").write_bytes(json.dumps({"text": "start" + " " * 1_000_000 + "end"}).encode() + b"\n")
    (text / "d.jsonl").write_bytes(b'{"text": "bad \xff\xfe bytes \xc3"}\n')
    languages = {
        "en": {"tokens": 40_960, "text": {"files": [str(text / "*.jsonl")]}},
        "clone": {"tokens": 10_240, "clone_of": "en", "clone_share": 0.2},
    }
    recipe = tiny_recipe(tmp_path / "data", languages=languages, run_dir=str(tmp_path / "run"))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    code, out, err = launch("launchers/prepare.py", "--config", str(path))
    assert code == 0, err
    assert "invalid_utf8 3" in out
    code, out, err = launch("launchers/pretrain.py", "--config", str(path), "--stop-after", "2")
    assert code == 0, err
    code, _, err = launch("launchers/prepare.py", "--config", str(path), "data.invalid_utf8=refuse")
    assert code == 2
    assert "d.jsonl" in err
