"""A run as a whole: its account, its words, data that moved."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from prealign.config import dump_recipe
from prealign.config.stage import STAGES, align_stage, pretrain_stage, stage_of
from prealign.data.prepared import PreparedData, open_data
from prealign.errors import UserError
from prealign.evaluation.aligned import alignment_lines
from prealign.preparation.pipeline import prepare
from prealign.processes import free_port
from prealign.training.plan import Account, align_plan, pretrain_plan
from prealign.training.run import check_same_run, finished_account
from prealign.training.words import check_word_lengths, word_batches, word_tokens
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.processes import finish, start, start_rank, train, train_arguments


@pytest.mark.parametrize("sampling", ["uniform", "frequency"])
def test_word_batches_beyond_a_budget_take_nothing_from_it(data_dir: Path, tmp_path: Path, sampling: str) -> None:
    """More tokens of words than the clone has of text: they are no text."""
    recipe = tiny_recipe(data_dir, align={"words_per_step": 1200, "sampling": sampling})
    assert word_tokens(align_stage(recipe), open_data(recipe), align_plan(recipe).steps)["clone"] > 10_240
    code, out, err = finish(start(train_arguments(recipe, tmp_path / "run"), 2))
    assert code == 0, err
    assert "(51,200 tokens of text and " in out
    assert "words of the table: cosine (over random pairs; P@1 by CSLS): input embedding" in out


def test_a_stage_says_whether_it_aligned() -> None:
    def of(cosine: float) -> dict[str, Any]:
        found = {"csls": [0.9, 0.5, 0.4, 0.3], "queries": 500}
        return {"cosine": [cosine, 0.9, 0.8, 0.7], "margin": [0.9, 0.4, 0.3, 0.2], "retrieval": {"to_target": found}}

    (line, other) = alignment_lines(
        {"de": {"table": of(0.95), "heldout": of(0.2)}, "zh": {"heldout": {"skipped": "no"}}}
    )
    assert line == (
        "align: de, 500 words of the table: cosine (over random pairs; P@1 by CSLS): input embedding 0.95 "
        "(+0.90; 90 %), block 1 0.90 (+0.40; 50 %), last layer 0.70 (+0.20; 30 %)"
    )
    assert other.startswith("align: de, 500 held-out words: ")
    *_, warning = alignment_lines({"de": {"table": of(0.44)}})
    assert "into 'de' is 0.44; expected 0.9 or more" in warning
    assert "align.words_per_step" in warning
    assert alignment_lines({}) == []


def test_alignment_kept_while_pretraining(data_dir: Path, tmp_path: Path) -> None:
    """Word batches come beside the text of every third step, on any number of ranks alike, and are counted."""
    recipe = tiny_recipe(data_dir, pretrain={"align_every": 3, "align_words_per_step": 40, "align_weight": 0.5})
    rows = {ranks: train(recipe, tmp_path / str(ranks), ranks) for ranks in (1, 2)}
    for name in ("lm_loss", "align_loss"):
        one, two = ([row[name] for row in rows[ranks] if name in row] for ranks in (1, 2))
        assert one == pytest.approx(two, rel=1e-4)
    logged = {
        row["step"]: "align_loss" in row for row in rows[1] if (row["kind"], row["stage"]) == ("train", "pretrain")
    }
    assert logged == {step: step % 3 == 1 for step in logged}  # a row is of the step before it
    assert len(logged) > 3
    run = finished_account(recipe.model_copy(update={"run_dir": tmp_path / "2"}))
    data = open_data(recipe)
    aligned = align_plan(recipe)
    pretrained = pretrain_plan(recipe, Account(aligned.text_tokens(recipe), run.words, aligned.steps))
    drawn = [word_tokens(stage_of(recipe, name), data, plan.steps) for name, plan in zip(STAGES, (aligned, pretrained))]
    assert run.words == {name: sum(words[name] for words in drawn) for name in run.words}
    assert drawn[1]["clone"] > 0
    assert run.targets == finished_account(recipe.model_copy(update={"run_dir": tmp_path / "1"})).targets
    assert run.targets["clone"] == run.text["clone"]
    assert 0.9 * run.text["en"] < run.targets["en"] < run.text["en"]


def test_alignment_is_not_kept_without_a_table(data_dir: Path) -> None:
    languages = tiny_recipe(data_dir).model_dump(mode="json")["languages"]
    recipe = tiny_recipe(data_dir, languages={"en": languages["en"]}, stages=["pretrain"], pretrain={"align_every": 2})
    with pytest.raises(UserError, match=r"pretrain\.align_every: found a number without translations"):
        word_batches(pretrain_stage(recipe), PreparedData(recipe, {}))


def test_kept_alignment_is_not_compiled(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"parallel\.compile: found true with pretrain\.align_every"):
        tiny_recipe(data_dir, pretrain={"align_every": 2}, parallel={"compile": True})


def test_ranks_with_other_recipes_do_not_train(data_dir: Path, tmp_path: Path) -> None:
    """As on a node whose checkout is an older one."""
    first = train_arguments(tiny_recipe(data_dir), tmp_path / "run")
    port = free_port()
    both = [start_rank([*first, *own], rank, 2, port) for rank, own in enumerate(([], ["pretrain.learning_rate=2e-3"]))]
    code, _, err = finish(both)
    assert code == 2
    assert "pretrain.learning_rate: found 0.002 on rank 1, and 0.001 on rank 0; expected one recipe" in err
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_model_that_is_not_finite_has_not_finished(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir, anomalies={"limit": 1000})
    arguments = train_arguments(recipe, tmp_path / "run", "--stage", "align", "align.learning_rate=1e9")
    code, _, err = finish(start(arguments))
    assert code == 2, err
    assert "align: after its last step (10) weights or perplexity are not finite" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "align" / "weights").exists()


def test_checkpoints_without_their_recipe(data_dir: Path, tmp_path: Path) -> None:
    arguments = train_arguments(tiny_recipe(data_dir, checkpoint={"every": 2}), tmp_path / "run", "--stop-after", "3")
    assert finish(start(arguments))[0] == 0
    (tmp_path / "run" / "recipe.yaml").unlink()
    code, _, err = finish(start(arguments))
    assert code == 2
    assert "recipe.yaml: no such file beside" in err


def test_a_context_shorter_than_a_word(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    data = open_data(recipe)
    check_word_lengths(recipe, data)
    short = recipe.model_copy(update={"model": recipe.model.model_copy(update={"context": 2})})
    with pytest.raises(UserError, match=r"model\.context: found 2; the longest word of the table has \d+ tokens"):
        check_word_lengths(short, data)
    rotary = short.model.model_copy(update={"positions": "rotary"})
    check_word_lengths(short.model_copy(update={"model": rotary}), data)


def test_moved_data_is_the_same_data(data_dir: Path, tmp_path: Path) -> None:
    """A run goes on with its data at another place, and refuses other data."""
    shutil.copytree(data_dir, tmp_path / "data")
    recipe = tiny_recipe(tmp_path / "data")
    arguments = train_arguments(recipe, tmp_path / "run", "--stop-after", "4")
    code, _, err = finish(start(arguments))
    assert code == 0, err
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = [*arguments, f"data.dir={tmp_path / 'elsewhere'}", "languages.en.text.files=[moved.jsonl]"]
    code, out, err = finish(start([part if part != "4" else "6" for part in moved]))
    assert code == 0, err
    assert "stopped: align after 6 of" in out
    languages = recipe.model_dump(mode="json")["languages"]
    languages["en"]["text"]["files"] = [str(SAMPLE_TEXT / "persuasion.jsonl")]
    prepare(tiny_recipe(tmp_path / "other", languages=languages), lambda line: None)
    code, _, err = finish(start([*arguments, f"data.dir={tmp_path / 'other'}"]))
    assert code == 2
    assert "trained on data" in err
    assert "remove" not in err


def test_weights_and_checkpoints_have_the_rights_that_umask_gives(data_dir: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(tiny_recipe(data_dir, checkpoint={"every": 4}), tmp_path / "run", 1)
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.suffix != ".partial"]
    assert any(path.suffix == ".safetensors" for path in written)
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {"0o640"}


def test_a_recipe_of_which_nothing_was_trained_is_replaced(data_dir: Path, tmp_path: Path) -> None:
    """A first start that was refused does not pin its folder; what it recorded is not of the new run."""
    run = tmp_path / "run"
    arguments = train_arguments(tiny_recipe(data_dir), run, "--stop-after", "2")
    code, _, err = finish(start([*arguments, f"model.init=hf:{tmp_path / 'nowhere'}"]))
    assert code == 2, err
    assert (run / "recipe.yaml").is_file()
    (run / "starts.jsonl").write_text('{"stage": "align", "step": 0, "steps": 1, "compiled": true}\n')
    for left in ("align/anomalies/step-1.json", "align/checkpoints/.step-1.partial/x", "report/index.html"):
        (run / left).parent.mkdir(parents=True)
        (run / left).write_text("{}")
    (run / "notes.txt").write_text("the user's own")
    code, out, err = finish(start(arguments, 2))
    assert code == 0, err
    assert out.count("is of another recipe, of which nothing was trained; this one replaces it") == 1
    assert len((run / "starts.jsonl").read_text().splitlines()) == 1
    assert not (run / "align" / "anomalies").exists()
    assert (run / "notes.txt").exists()
    code, _, err = finish(start([*arguments, "seed=2"]))
    assert code == 2
    assert "recipe.yaml: the run there has seed=1; the recipe has seed=2; choose another run_dir" in err


@pytest.mark.parametrize("left", ["pretrain/weights", "align/checkpoints/step-2", "evaluation", "export"])
def test_what_was_trained_keeps_its_recipe(data_dir: Path, tmp_path: Path, left: str) -> None:
    recipe, other = (tiny_recipe(data_dir, run_dir=str(tmp_path), seed=seed) for seed in (1, 2))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert check_same_run(recipe, None) is None
    assert "this one replaces it" in (check_same_run(other, None) or "")
    (tmp_path / left).mkdir(parents=True)
    assert check_same_run(recipe, None) is None
    with pytest.raises(UserError, match="the run there has seed=1"):
        check_same_run(other, None)


def test_metrics_of_steps_keep_their_recipe(data_dir: Path, tmp_path: Path) -> None:
    """Of a run that was stopped before its first checkpoint."""
    recipe, other = (tiny_recipe(data_dir, run_dir=str(tmp_path), seed=seed) for seed in (1, 2))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "stage": "align", "step": 1}\n')
    assert check_same_run(recipe, None) is None
    with pytest.raises(UserError, match="the run there has seed=1"):
        check_same_run(other, None)
