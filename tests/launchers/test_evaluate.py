"""launchers/evaluate.py on a small run: any checkpoint, one process or two, one-line errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prealign.config import Recipe, dump_recipe, load_recipe
from prealign.preparation.pipeline import prepare
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.processes import ROOT, finish, free_port, metrics, start, train


@pytest.fixture(scope="module")
def trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny_recipe(
        data_dir,
        checkpoint={"every": 40, "keep": 9},
        evaluation={"every": 40, "tokens": 2000, "probe_words": 50, "retrieval_words": 100, "parallel_sentences": 20},
        parallel={"precision": "fp32", "zero_stage": 1},
    )
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    train(recipe, folder)
    return folder


def evaluate(run: Path, *options: str, ranks: int = 1) -> tuple[int, str, str]:
    return finish(start(["launchers/evaluate.py", "--run", str(run), *options], ranks))


def results(run: Path, step: int | str, prefix: str = "") -> dict[str, Any]:
    return json.loads((run / "evaluation" / f"{prefix}step-{step}.json").read_text())


def steps(run: Path) -> int:
    return max(row["step"] for row in metrics(run) if row["stage"] == "pretrain")


def test_final_weights_and_checkpoints_give_what_training_logged(trained: Path) -> None:
    last = steps(trained)
    code, out, err = evaluate(trained, "--split", "dev")
    assert code == 0, err
    assert f"written: {trained / 'evaluation' / f'step-{last}-dev.json'}" in out
    assert "skipped: no words are held out" in out
    code, _, err = evaluate(trained, "--step", "40", "--only", "lm,mexa", "--split", "dev", ranks=2)
    assert code == 0, err
    logged = {row["step"]: row for row in metrics(trained) if row["kind"] == "eval" and row["stage"] == "pretrain"}
    for step, weights in ((last, "weights"), (40, "step-40")):
        record = results(trained, f"{step}-dev")
        assert Path(record["weights"]).name == weights
        for language in ("en", "clone"):
            found = record["metrics"]["lm"][language]
            assert found["perplexity"] == pytest.approx(logged[step][f"perplexity/{language}"], rel=1e-5)
            assert found["bits_per_byte"] == pytest.approx(logged[step][f"bits_per_byte/{language}"], rel=1e-5)
    assert set(results(trained, "40-dev")["metrics"]) == {"lm", "mexa"}


def test_results_are_of_the_test_text(trained: Path) -> None:
    last = steps(trained)
    code, out, err = evaluate(trained, "--only", "lm")
    assert code == 0, err
    assert f"written: {trained / 'evaluation' / f'step-{last}.json'}" in out
    logged = [row for row in metrics(trained) if row["kind"] == "eval"][-1]
    found = results(trained, last)
    assert found["split"] == "test"
    assert found["metrics"]["lm"]["en"]["perplexity"] != pytest.approx(logged["perplexity/en"], rel=1e-3)


def test_other_data_than_it_was_trained_on_is_refused(trained: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(trained / "recipe.yaml"))
    other = tiny_recipe(tmp_path / "other")
    languages = other.model_dump(mode="json")["languages"]
    languages["en"]["text"]["files"] = [str(SAMPLE_TEXT / "persuasion.jsonl")]
    prepare(tiny_recipe(tmp_path / "other", languages=languages), lambda line: None)
    assert recipe.data.dir != other.data.dir
    code, _, err = evaluate(trained, "--only", "lm", f"data.dir={tmp_path / 'other'}")
    assert code == 2
    assert "trained on data" in err
    assert "give the data that it was trained on" in err


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_steps_to_stop_after_are_above_zero(trained: Path, value: str) -> None:
    code, _, err = finish(
        start(["launchers/pretrain.py", "--config", str(trained / "recipe.yaml"), f"--stop-after={value}"])
    )
    assert code == 2
    assert "expected a number above 0" in err


def test_from_another_directory(trained: Path, tmp_path: Path) -> None:
    """The run's data is found where it lies beside the run, wherever the command is typed."""
    project = tmp_path / "project"
    shutil.copytree(trained, project / "runs" / "r", ignore=shutil.ignore_patterns("evaluation"))
    recipe = load_recipe(str(trained / "recipe.yaml"))
    shutil.copytree(recipe.data.dir, project / "prepared")
    moved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"dir": Path("prepared")})})
    (project / "runs" / "r" / "recipe.yaml").write_text(dump_recipe(moved))
    command = [str(ROOT / "launchers" / "evaluate.py"), "--run", str(project / "runs" / "r"), "--only", "lm"]
    code, _, err = finish(start(command, cwd=tmp_path))
    assert code == 0, err


def test_one_and_two_processes_agree(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("evaluation"))
    code, _, err = evaluate(run, "--stage", "align", "--only", "lm,alignment,mexa")
    assert code == 0, err
    path = run / "evaluation" / f"align-{next((run / 'evaluation').glob('align-*')).name.removeprefix('align-')}"
    alone = json.loads(path.read_text())["metrics"]
    path.unlink()
    code, _, err = evaluate(run, "--stage", "align", "--only", "lm,alignment,mexa", ranks=2)
    assert code == 0, err
    together = json.loads(path.read_text())["metrics"]
    assert together["mexa"] == alone["mexa"]
    assert together["alignment"] == alone["alignment"]
    assert together["lm"]["en"]["nats"] == pytest.approx(alone["lm"]["en"]["nats"], rel=1e-9)
    assert together["lm"]["en"]["words"]["seen"] == pytest.approx(alone["lm"]["en"]["words"]["seen"], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--step", "3"], "--step: found 3; "),
        (["--only", "lm,bleu"], "--only: found 'bleu'; expected names of"),
        (["--only", ","], "--only: found no name"),
        (["evaluation.tokenz=1"], "evaluation.tokenz: unknown key; did you mean 'tokens'"),
        (["model.hidden_size=64"], "has shape"),
        (["data.dir=/nowhere"], "no such tokenizer; run launchers/prepare.py"),
        (["evaluation.parallel.en=a.tsv"], "evaluation.parallel: found 'en'; expected target languages: ['clone']"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(trained: Path, options: list[str], message: str) -> None:
    code, _, err = evaluate(trained, *options)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


@pytest.mark.slow
def test_torchrun(trained: Path) -> None:
    """Which would take --run for an option of its own."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += ["launchers/evaluate.py", "--run-dir", str(trained), "--only", "mexa", "--step", "40"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step-40.json" in done.stdout


def test_runs_that_are_none(trained: Path, tmp_path: Path, recipe: Recipe) -> None:
    code, _, err = evaluate(tmp_path)
    assert (code, err.count("error: ")) == (2, 1)
    assert "found no recipe.yaml there; expected the folder of a run" in err
    shutil.copy(trained / "recipe.yaml", tmp_path)
    code, _, err = evaluate(tmp_path)
    assert (code, err.count("error: ")) == (2, 1)
    assert "found no weights" in err


def test_a_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("evaluation"))
    part = next((run / "pretrain" / "checkpoints" / "step-40").glob("rank-*.safetensors"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    code, _, err = evaluate(run, "--step", "40")
    assert code == 2
    assert "step-40: damaged: rank-00000-000.safetensors has SHA-256" in err
    assert not (run / "evaluation").exists()
