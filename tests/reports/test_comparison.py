"""The comparison page: numbers, account, refusals."""

import json
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

from prealign.config import Recipe
from prealign.config.loading import dump_recipe
from prealign.errors import UserError
from prealign.reports.comparison import compare
from prealign.reports.paired import said
from prealign.reports.runs import read_run
from tests.conftest import tiny_recipe


def finished(folder: Path, recipe: Recipe, perplexities: dict[str, float], words: int, text: int = 40_960) -> Path:
    """A run folder as a finished run leaves it."""
    weights = folder / "pretrain" / "weights"
    weights.mkdir(parents=True)
    state = {
        "text": {"en": text, "clone": 10_240},
        "words": {"en": words, "clone": words},
        "steps": 100,
    }
    (weights / "manifest.json").write_text(json.dumps({"state": state, "files": {}}))
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    rows = [{"kind": "train", "stage": "pretrain", "step": 1, "tokens": 512, "lm_loss": 5.0}]
    for step, tokens, factor in ((0, 0, 30.0), (50, 25_600, 2.0), (100, 51_200, 1.0)):
        row = {"kind": "eval", "stage": "pretrain", "step": step, "tokens": tokens}
        for language, value in perplexities.items():
            row |= {f"perplexity/{language}": value * factor, f"bits_per_byte/{language}": 2.0}
        row |= {"probe_cosine_layers": [0.5, 0.7], "probe_random_cosine_layers": [0.1, 0.1]}
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_tables_page_and_figure(data_dir: Path, tmp_path: Path) -> None:
    joint = [
        finished(tmp_path / f"joint-{seed}", tiny_recipe(data_dir, seed=seed), {"en": en, "clone": 200.0}, words=0)
        for seed, en in ((1, 99.0), (2, 101.0))
    ]
    aligned = finished(tmp_path / "aligned", tiny_recipe(data_dir), {"en": 98.0, "clone": 150.0}, words=300)
    found = {"csls": [0.99, 0.5], "queries": 500}
    ended = {"table": {"cosine": [0.96, 0.9], "margin": [0.9, 0.4], "retrieval": {"to_target": found}}}
    row = {"kind": "eval", "stage": "align", "step": 9, "tokens": 0, "alignment": {"clone": ended}}
    metrics = aligned / "metrics.jsonl"
    metrics.write_text(json.dumps(row | {"perplexity/en": 9.0, "perplexity/clone": 9.0}) + "\n" + metrics.read_text())
    runs = [read_run(f"Joint={folder}") for folder in joint] + [read_run(f"PreAlign={aligned}")]
    lines = compare(runs, tmp_path / "out", "A title")
    assert lines[1].split()[:4] == ["Joint", "100.0", "±", "1.4"]
    assert "98.0 (-2.0 %)" in lines[2]
    assert "150.0 (-25.0 %)" in lines[2]
    assert "40,960 (+ 300)" in lines[-1]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "A title" in page
    assert "<td>PreAlign</td><td>clone</td><td>500 words of the table</td><td>0.96 (+0.90; 99 %)</td>" in page
    assert "150.0 (-25.0 %)" in page
    assert "data:image/png;base64," in page
    assert Image.open(tmp_path / "out" / "figure.png").width > 1000
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["label"], row["seed"], row["perplexity/clone"]) for row in record] == [
        ("Joint", 1, 200.0),
        ("Joint", 2, 200.0),
        ("PreAlign", 1, 150.0),
    ]
    assert record[2]["account"]["words"] == {"en": 300, "clone": 300}
    assert record[2]["account"]["flops"] != record[0]["account"]["flops"]


def test_which_labels_differ(data_dir: Path, tmp_path: Path) -> None:
    values = {
        "Joint": [(100.0, 200.0), (102.0, 210.0), (101.0, 205.0)],
        "PreAlign": [(101.0, 150.0), (101.5, 156.0), (101.0, 154.5)],
        "One": [(90.0, 100.0)],
    }
    runs = []
    for label, of_seeds in values.items():
        for seed, (english, clone) in enumerate(of_seeds, 1):
            folder = tmp_path / f"{label}-{seed}"
            recipe = tiny_recipe(data_dir, seed=seed)
            runs.append(read_run(f"{label}={finished(folder, recipe, {'en': english, 'clone': clone}, words=0)}"))
    lines = compare(runs, tmp_path / "out", "")
    page = (tmp_path / "out" / "index.html").read_text()
    english, clone = (
        stats.ttest_1samp([100 * (a[n] / b[n] - 1) for a, b in zip(values["PreAlign"], values["Joint"])], 0.0)
        for n in (0, 1)
    )
    assert clone.pvalue < english.pvalue
    low, high = english.confidence_interval()  # the second of two tests keeps its level; those of one seed do not count
    difference = f"+0.2 % ({low:+.1f} to {high:+.1f}), 3 seeds"
    assert f"<td>en</td><td>{difference}</td><td>p = {english.pvalue:.2g}</td><td>not shown to differ</td>" in page
    low, high = clone.confidence_interval(0.975)
    line = next(line for line in lines if line.startswith("PreAlign") and " clone " in line)
    assert f"({low:+.1f} to {high:+.1f}), 3 seeds {said(2 * clone.pvalue)} lower" in " ".join(line.split())
    assert "<td>One</td><td>clone</td><td>-50.0 %, 1 seed</td><td>–</td><td>no verdict from one seed</td>" in page


def test_steps_of_an_align_stage_in_another_folder_count(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir, stages=["pretrain"], pretrain={"init_from": "elsewhere"})
    started = read_run(str(finished(tmp_path / "started", recipe, {"en": 99.0, "clone": 200.0}, words=300)))
    assert started.align_steps == 0  # all 100 steps of its account are its own
    manifest = tmp_path / "started" / "pretrain" / "weights" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps": 100', '"steps": 110'))
    assert read_run(str(tmp_path / "started")).align_steps == 10


def test_unequal_tokens_are_refused(data_dir: Path, tmp_path: Path) -> None:
    one = finished(tmp_path / "one", tiny_recipe(data_dir), {"en": 99.0, "clone": 200.0}, words=0)
    other = finished(tmp_path / "other", tiny_recipe(data_dir), {"en": 99.0, "clone": 200.0}, words=0, text=50_000)
    with pytest.raises(UserError, match="expected equal numbers"):
        compare([read_run(str(one)), read_run(str(other))], tmp_path / "out", "")


def test_what_is_no_finished_run(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a finished run"):
        read_run(str(tmp_path / "nothing"))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny_recipe(data_dir)))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="its pretrain stage has not finished"):
        read_run(str(tmp_path))


def test_a_run_of_whose_stages_one_has_finished(data_dir: Path, tmp_path: Path) -> None:
    """Its account would be the align stage's, beside perplexities of the stage that is under way."""
    recipe = tiny_recipe(data_dir)
    assert recipe.stages == ["align", "pretrain"]
    folder = finished(tmp_path / "run", recipe, {"en": 99.0, "clone": 200.0}, words=300)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # as a killed process leaves it
    read_run(str(folder))
    (folder / "pretrain" / "weights").rename(folder / "align_of_it")
    with pytest.raises(UserError, match="its pretrain stage has not finished"):
        read_run(str(folder))
