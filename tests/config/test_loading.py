"""Recipes: inheritance, overrides, and errors that say what to do."""

import re
from pathlib import Path

import pytest
import yaml

from prealign.config import dump_recipe, load_recipe
from prealign.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))

BASE = """
name: base
languages: {en: {tokens: 1000, text: {files: [a.txt]}}, xx: {tokens: 100, clone_of: en}}
data: {dir: d}
model: {layers: 2, hidden_size: 8, heads: 2}
batch: {global_batch_size: 4, micro_batch_size: 2}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def test_inheritance_and_overrides(base: Path) -> None:
    child = base.parent / "child.yaml"
    child.write_text("base: base.yaml\nname: child\nmodel: {layers: 3}\npretrain: {learning_rate: 1e-3}\n")
    recipe = load_recipe(str(child), ["model.heads=4", "languages.en.tokens=2e3", "stages=[pretrain]"])
    assert (recipe.name, recipe.model.layers, recipe.model.heads, recipe.model.hidden_size) == ("child", 3, 4, 8)
    assert recipe.pretrain.learning_rate == 1e-3
    assert recipe.languages["en"].tokens == 2000
    assert recipe.stages == ["pretrain"]


def test_several_bases_later_wins(base: Path) -> None:
    (base.parent / "big.yaml").write_text("model: {layers: 9}\n")
    child = base.parent / "child.yaml"
    child.write_text("base: [base.yaml, big.yaml]\n")
    assert load_recipe(str(child)).model.layers == 9


def test_dump_reads_back_equal(base: Path) -> None:
    recipe = load_recipe(str(base))
    again = base.parent / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(str(again)) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    assert load_recipe(path.stem) == load_recipe(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("align.layers=[1, 99]", r"align\.layers: found \[1, 99\]; expected 'all' or ascending layers from 0 to \d+"),
        ("model.hiden_size=3", r"model\.hiden_size: unknown key; did you mean 'hidden_size'"),
        ("pretain.learning_rate=1", r"pretain: unknown key; did you mean 'pretrain'"),
        ("languages.en.tokns=1", r"languages\.en\.tokns: unknown key; did you mean 'tokens'"),
        ("languages.en.text.file=x", r"languages\.en\.text\.file: unknown key; did you mean 'files'"),
        ("model.heads=3", r"hidden_size=8 and heads=3; expected hidden_size divisible by heads"),
        ("model.layers=two", r"model\.layers: found 'two'; expected"),
        ("model.layers=0", r"model\.layers: found 0; expected"),
        ("codeswitch.ratio=1.5", r"codeswitch\.ratio: found 1.5"),
        ("parallel.zero_stage=4", r"parallel\.zero_stage: found 4; expected"),
        ("source_language=de", r"source_language: found 'de'"),
        ("languages.xx.clone_of=yy", r"languages\.xx\.clone_of: found 'yy'"),
        ("stages=[pretrain, align]", r"stages: found"),
        ("pretrain.init_from=x", r"pretrain\.init_from"),
        ("optimizer.eps=.nan", r"optimizer\.eps"),
        ("languages.xx.text={files: [a]}", r"languages\.xx: found both or neither"),
        ("languages.xx.weight=1", r"languages\.xx: found both or neither of 'tokens' and 'weight'"),
        ("languages.xx.active=[5, 5]", r"languages\.xx: active: found \[5, 5\]; expected from_step < to_step"),
        ("languages.xx.active=[-1, 5]", r"languages\.xx\.active\.0: found -1"),
        ("languages.xx={clone_of: en, weight: 1}", r"languages\.xx: found both or neither"),
        ("languages.yy={clone_of: en, weight: 1}", r"mixture\.tokens: found None and weights for \['yy'\]"),
        ("mixture.tokens=500", r"mixture\.tokens: found 500 and weights for no language"),
        ("mixture.phases=[{from_step: 3, weights: {en: 2}}]", r"mixture\.phases: found a weight for 'en'"),
        (
            "mixture.phases=[{from_step: 3, weights: {}}, {from_step: 3, weights: {}}]",
            r"mixture\.phases: found from_step \[3, 3\]; expected ascending",
        ),
        ("languages.en.sources={a.b: {tokens: 5, text: {files: [a]}}}", r"languages\.en\.sources\.a\.b"),
        ("languages.en.clone_level=word", r"languages\.en: clone_level: found 'word' without 'clone_of'"),
        ("data=3", r"data: found 3"),
        ("model.heads", r"expected key\.sub=value"),
        ("model.layers={", r"not valid YAML"),
    ],
)
def test_mistakes_are_one_line_with_key_and_remedy(base: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(str(base), [override])
    assert "\n" not in str(caught.value)


def test_clones_at_word_level_have_no_perfect_initialisation(base: Path) -> None:
    word = "languages.xx.clone_level=word"
    assert load_recipe(str(base), [word]).languages["xx"].clone_level == "word"
    with pytest.raises(UserError, match=r"model\.init: found 'perfect_clone'"):
        load_recipe(str(base), [word, "model.init=perfect_clone"])
    with pytest.raises(UserError, match=r"clone_level: found 'word'; 'en' is written without spaces"):
        load_recipe(str(base), [word, "languages.en.space_prefix=false"])


def test_missing_key(base: Path) -> None:
    values = yaml.safe_load(BASE)
    del values["model"]["heads"]
    base.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"model\.heads: missing"):
        load_recipe(str(base))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\nname: b\n", "line 2: key 'name' is given twice"),
        ("? [a]\n: b\n", "line 1: found a list or mapping as a key"),
        ("- a\n", "expected a mapping"),
        ("a: [\n", "not valid YAML"),
        ("base: nothing.yaml\n", "no such file"),
        ("base: self.yaml\n", "circle"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "self.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_recipe(str(path))


def test_merge_keys(base: Path) -> None:
    path = base.parent / "merged.yaml"
    path.write_text(
        f"base: {base.name}\n"
        "model: {<<: &small {layers: 3, hidden_size: 32}, layers: 6}\n"
        "batch: {<<: {global_batch_size: 8}, micro_batch_size: 4}\n"
    )
    recipe = load_recipe(str(path))
    assert (recipe.model.layers, recipe.model.hidden_size, recipe.batch.global_batch_size) == (6, 32, 8)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'enclone_demo'"):
        load_recipe("enclone_dem")


def test_vocabulary_blocks(base: Path) -> None:
    recipe = load_recipe(str(base), ["data.tokenizer.vocab_size=1000", "languages.yy={tokens: 5, clone_of: en}"])
    assert recipe.vocab_size == 3000
    assert recipe.padded_vocab_size == 3072
    assert [recipe.token_offset(name) for name in ("en", "xx", "yy")] == [0, 1000, 2000]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("deepspeed={optimizer: {type: Adam}}", r"deepspeed\.optimizer: found a value; expected the recipe's own"),
        ("deepspeed={zero_optimization: {stage: 7}}", r"zero_optimization\.stage: .* expected parallel\.zero_stage"),
        ("deepspeed={train_micro_batch_size_per_gpu: 2}", r"expected batch\.micro_batch_size in its place"),
        ("optimizer.beta2=1", r"optimizer\.beta2: found 1"),
        ("pretrain.min_learning_rate=5", r"pretrain: min_learning_rate: found 5; expected at most learning_rate"),
    ],
)
def test_values_that_no_run_can_have(base: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(str(base), [override])


def test_what_only_deepspeed_knows_is_handed_on(base: Path) -> None:
    section = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    recipe = load_recipe(str(base), ["deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}"])
    assert recipe.deepspeed == section


def test_no_is_a_language(base: Path) -> None:
    child = base.parent / "child.yaml"
    child.write_text("base: base.yaml\nlanguages:\n  no: {tokens: 10, text: {files: [no.txt]}}\n")
    assert "no" in load_recipe(str(child)).languages
    assert load_recipe(str(base), ["languages.no={tokens: 10, clone_of: en}"]).languages["no"].clone_of == "en"
    assert load_recipe(str(base), ["log.tensorboard=false"]).log.tensorboard is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("base:\n", r"base: found None; expected a path or a list of paths, or no 'base'"),
        ("base: 3\n", r"base: found 3; expected a path"),
        ("base: [base.yaml, null]\n", r"base: found \['base.yaml', None\]; expected a path"),
        (
            "base: base.yaml\nname: 2024-01-01\n",
            "name: found .*; YAML reads it as a date where it is not quoted: write '2024-01-01'",
        ),
        (
            "base: base.yaml\nname: 12\n",
            "name: found 12; .*; YAML reads it as a number where it is not quoted: write '12'",
        ),
        ("base: base.yaml\nname: true\n", "YAML reads it as a truth value"),
        (
            "base: base.yaml\nname:\n",
            "name: found None; .*YAML reads it as nothing where it is not quoted: give a value",
        ),
        ("base: base.yaml\nname: ''\n", "name: found ''"),
        ("base: base.yaml\nname: ../../x\n", "name: found '../../x'"),
        ("base: base.yaml\nlanguages:\n  12: {tokens: 10, clone_of: en}\n", "languages.12.*YAML reads it as a number"),
    ],
)
def test_what_yaml_makes_of_words(base: Path, content: str, message: str) -> None:
    child = base.parent / "child.yaml"
    child.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(str(child))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("align.sampling=sometimes", "'uniform' or 'frequency' or a number"),
        ("align.sampling=2", "'uniform' or 'frequency' or a number less than or equal to 1"),
        ("parallel.activation_checkpointing=some", "'none' or 'full' or a whole number"),
        ("parallel.activation_checkpointing=1", "'none' or 'full' or a number greater than or equal to 2"),
        ("parallel.compile=maybe", "'auto' or true or false"),
        ("align.layers=last", "'all' or a list"),
        ("align.layers=[x, -1]", "'all' or a list, each item a whole number"),
    ],
)
def test_all_kinds_of_value_that_a_key_takes_are_named(base: Path, override: str, expected: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UserError) as caught:
        load_recipe(str(base), [override])
    assert re.fullmatch(rf".*base\.yaml: {key}: found .*; expected: {expected}", str(caught.value))
    with pytest.raises(UserError, match=r"model\.heads: found 'x'; .*\(and 1 more\)$"):
        load_recipe(str(base), [override, "model.heads=x"])
