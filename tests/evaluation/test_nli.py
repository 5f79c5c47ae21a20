"""Fine-tuning on inference: a task that can be learned is learned and passes to a perfect clone; data and errors."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score

from prealign.config import Recipe
from prealign.config.nli import NliDataConfig
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.evaluation.nli import Classifier, accuracy
from prealign.evaluation.nli_data import encode_pair, read_pairs
from prealign.model.layout import Group, Layout
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE, model_of
from tests.processes import finish, start, train

LABELS = ["entailment", "neutral", "contradiction"]
WORDS = {"entailment": "truly", "neutral": "perhaps", "contradiction": "never"}


def rows(count: int, seed: int) -> str:
    """The hypothesis says its label by a word."""
    draw = np.random.default_rng(seed)
    people = ["Catherine", "Henry", "Isabella", "James"]
    lines = []
    for _ in range(count):
        label = str(draw.choice(list(WORDS)))
        one, other = draw.choice(people, 2)
        lines.append(f"{one} went to the abbey.\t{other} was {WORDS[label]} there.\t{label}\n")
    return "".join(lines)


def nli_recipe(data_dir: Path, folder: Path, **changes: object) -> Recipe:
    for name, count in (("train", 240), ("dev", 60), ("test", 60)):
        with lzma.open(folder / f"{name}.tsv.xz", "wt") as file:
            file.write(rows(count, count + len(name)))
    settings = {name: str(folder / f"{name}.tsv.xz") for name in ("train", "dev")}
    settings |= {"test": {"en": str(folder / "test.tsv.xz")}, "epochs": 4, "batch_size": 8, "seeds": [1, 2]}
    return tiny_recipe(
        data_dir,
        stages=["pretrain"],
        codeswitch={"ratio": 0},
        model={"init": "perfect_clone", "context": 32},
        evaluation={"nli": settings | {"learning_rate": 3e-3} | changes},
    )


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 1), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_what_is_learned_in_english_passes_to_a_perfect_clone(
    data_dir: Path, tmp_path: Path, ranks: int, zero_stage: int
) -> None:
    recipe = nli_recipe(data_dir, tmp_path)
    train(recipe, tmp_path / "run", 1)
    pairs = [f"She went.\tShe {word} went.\t{label}\n" for word, label in (("truly", "same"), ("never", "other"))]
    (tmp_path / "two.tsv").write_text("".join(pairs * 150))
    file = tmp_path / "two.tsv"
    second = f"{{labels: [other, same], train: {file}, dev: {file}, test: {{en: {file}}}, batch_size: 8, seeds: [1]}}"
    command = ["launchers/evaluate.py", "--run", str(tmp_path / "run"), "--only", "nli,pawsx"]
    overrides = [
        f"parallel.zero_stage={zero_stage}",
        f"evaluation.pawsx={second}",
        "evaluation.pawsx.learning_rate=3e-3",
    ]
    code, out, err = finish(start([*command, *overrides], ranks))
    assert code == 0, err
    assert "2 seeds, epoch chosen on source dev; 60 pairs" in out
    (path,) = (tmp_path / "run" / "evaluation").glob("step-*.json")
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["pawsx"]["chance"] == 0.5  # a second task, with labels of its own
    assert metrics["pawsx"]["languages"]["en"]["accuracy"] == 1.0
    found = metrics["nli"]
    assert set(found["languages"]) == {"en", "clone"}
    assert found["languages"]["en"]["accuracy"] > 0.9
    assert found["languages"]["clone"]["accuracy"] > 0.6
    for run in found["runs"]:
        dev = [epoch["dev"] for epoch in run["epochs"]]
        assert run["epoch"] == 1 + dev.index(max(dev))
        assert run["test"] == run["epochs"][run["epoch"] - 1]["test"]
    for language in ("en", "clone"):
        values = [run["test"][language] for run in found["runs"]]
        assert found["languages"][language]["accuracy"] == pytest.approx(np.mean(values))
        assert found["languages"][language]["deviation"] == pytest.approx(np.std(values, ddof=1))


def test_the_classifier_reads_the_last_token_of_each_row(data_dir: Path) -> None:
    model = model_of(tiny_recipe(data_dir))
    classifier = Classifier(model.gpt, 32, 3, seed=1)
    sentences = [torch.randint(0, 600, (length,)) for length in (4, 9, 6)]
    lengths = torch.tensor([4, 9, 6])
    ids = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True)
    labels = torch.tensor([2, 0, 1])
    found = classifier(ids, lengths, labels)
    expected = []
    for sentence in sentences:
        hidden, _ = model.gpt(sentence, torch.arange(len(sentence)), Layout((Group(1, len(sentence)),)))
        expected.append(hidden[-1] @ classifier.weight.T)
    torch.testing.assert_close(found["logits"], torch.stack(expected), atol=1e-4, rtol=1e-4)
    nll = -torch.log_softmax(torch.stack(expected), dim=1)[torch.arange(3), labels].mean()
    assert float(found["loss"]) == pytest.approx(float(nll), rel=1e-4)


def test_accuracy_against_scikit_learn(data_dir: Path) -> None:
    """An untrained classifier is at chance; on a perfectly aligned model its answers are the same in both languages."""
    classifier = Classifier(model_of(tiny_recipe(data_dir, model={"init": "perfect_clone"})).gpt, 32, 3, seed=1)
    draw = np.random.default_rng(2)
    english = [draw.integers(0, 600, length) for length in draw.integers(2, 30, 300)]
    labels = draw.integers(0, 3, 300)
    answers = []
    for ids in map(torch.from_numpy, english):
        with torch.no_grad():
            logits = classifier(ids[None], torch.tensor([len(ids)]), torch.zeros(1, dtype=torch.int64))["logits"]
        answers.append(int(logits.argmax()))
    found = accuracy(classifier, ONE, (english, labels), 7)
    assert found == pytest.approx(accuracy_score(labels, answers))
    assert accuracy(classifier, ONE, ([ids + 600 for ids in english], labels), 7) == found
    assert accuracy(classifier, ONE, (english, np.array(answers)), 7) == 1.0
    low, high = binomtest(round(300 * found), 300).proportion_ci(method="wilson")
    assert low < 1 / 3 < high


def test_pairs_fit_into_the_context(data_dir: Path) -> None:
    tokenizer = open_data(tiny_recipe(data_dir)).clone_tokenizer
    premise, hypothesis = tokenizer.encode("She walked home.\n", "en"), tokenizer.encode("She went.", "en")
    whole = encode_pair(tokenizer, "en", (" She walked home. ", "She went.", 0), 99)
    assert (whole == np.concatenate((premise, hypothesis))).all()
    assert (encode_pair(tokenizer, "clone", ("She walked home.", "She went.", 0), 99) == whole + 600).all()
    cut = encode_pair(tokenizer, "en", ("She walked home.", "She went.", 0), len(hypothesis) + 3)
    assert (cut == np.concatenate((premise[-3:], hypothesis))).all()
    assert (encode_pair(tokenizer, "en", ("She walked home.", "She went.", 0), len(hypothesis)) == hypothesis).all()
    assert (encode_pair(tokenizer, "en", ("She walked home.", "She went.", 0), 2) == hypothesis[-2:]).all()


def test_files_and_datasets(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("A b.\tC d.\tneutral\nE.\tF.\tentailment\n")
    pairs = [("A b.", "C d.", 1), ("E.", "F.", 0)]
    assert read_pairs(NliDataConfig(file=path), "train", LABELS) == pairs
    assert read_pairs(NliDataConfig(file=path, max_rows=1), "train", LABELS) == pairs[:1]
    (tmp_path / "set").mkdir()
    lines = [{"premise": a, "hypothesis": b, "label": label} for a, b, label in pairs]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_pairs(NliDataConfig(hub=str(tmp_path / "set")), "train", LABELS) == pairs
    (tmp_path / "paws").mkdir()
    lines = [{"sentence1": a, "sentence2": b, "label": label} for a, b, label in (("A b.", "C d.", 1), ("E.", "F.", 0))]
    (tmp_path / "paws" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_pairs(NliDataConfig(hub=str(tmp_path / "paws")), "train", ["different", "paraphrase"]) == pairs
    with pytest.raises(UserError, match=r"found the label 1"):
        read_pairs(NliDataConfig(hub=str(tmp_path / "paws")), "train", ["one"])
    path.write_text("A b.\tC d.\tyes\n")
    with pytest.raises(UserError, match=r"a.tsv, line 1: found 'A b.\\tC d.\\tyes'; expected 'sentence<tab>sentence"):
        read_pairs(NliDataConfig(file=path), "train", LABELS)
    with pytest.raises(UserError, match=r"train: '/nowhere.tsv' cannot be read"):
        read_pairs(NliDataConfig(file=Path("/nowhere.tsv")), "train", LABELS)
    path.write_text("")
    with pytest.raises(UserError, match="found no pair"):
        read_pairs(NliDataConfig(file=path), "train", LABELS)


def test_generated_pairs_have_their_own_labels(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="with generated pairs, which have"):
        nli_recipe(data_dir, tmp_path, labels=["no", "yes"], dev={"generated": 30})


def test_labels_are_unlike(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels: found \['a', 'a'\]; expected each once"):
        nli_recipe(data_dir, tmp_path, labels=["a", "a"])


def test_languages_are_known(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation.nli.test: found 'fr'; expected languages of \['en', 'clone'\]"):
        nli_recipe(data_dir, tmp_path, test={"fr": "a.tsv"})
