"""What the documents say holds: links and paths lead somewhere, recipes and keys are known, command lines are taken.

`tests/test_document_commands.py` runs the commands.
"""

import argparse
import importlib.util
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from prealign.config import Recipe, load_recipe
from prealign.config.loading import validate
from tests import documents
from tests.documents import DOCUMENTS, ROOT, Command

NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

MADE = re.compile(
    r"^(RUN|DIR|FOLDER|EXPORT|RESULTS|PREFIX|NAME|LANGUAGE|SOURCE|data\.dir|<data\.dir>|runs|exports|imported|models|my|out|data|text/"
    r"|gpu_check|lm_eval|llm|/|tokenizer_|step-|tokenizer/|codeswitch|coverage|lexicon|words|heldout_words|facts|clone_words"
    r"|evaluation|report|tensorboard|weights|checkpoints|align|pretrain|anomalies|translations)"
)
"""Beginnings of paths that the reader has, or that commands write."""
KINDS = r"\.(?:py|sh|md|ya?ml|json|jsonl|html|cu|toml|txt)"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for target in documents.links(document):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{name}: {target}: no such file"
        assert found.is_relative_to(ROOT), f"{name}: {target}: outside of the tree"
        if anchor:
            page = found / "README.md" if found.is_dir() else found
            assert anchor in documents.anchors(page), f"{name}: {target}: no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_the_text_are_there(name: str) -> None:
    """Files named by a path, from the top, from the document's folder or from the package; by their name alone,
    anywhere in the tree."""
    document = ROOT / name
    everywhere = {path.name for folder in documents.FOLDERS for path in (ROOT / folder).rglob("*")}
    everywhere |= {path.name for path in ROOT.iterdir()}
    for code in documents.inline_code(document):
        if re.fullmatch(rf"[\w./-]+{KINDS}", code) is None or MADE.match(code):
            continue
        near = [ROOT, document.parent, ROOT / "prealign", ROOT / "configs"]
        there = any((folder / code).exists() for folder in near) or ("/" not in code and code in everywhere)
        assert there or code in WRITTEN, f"{name}: `{code}`: no such file"


WRITTEN = {
    ".input_hashes.json", "cache.jsonl", "config.json", "facts.txt", "index.html", "lexicon.jsonl",
    "manifest.json", "metrics.jsonl", "mine.py", "mine.yaml", "model.yaml", "pattern.txt", "predictions.json",
    "preprocess_data.py", "recipe.yaml", "results.json", "special_tokens.json", "starts.jsonl", "text.txt",
    "tokenizer.json", "tokenizer_config.json", "tutorial.yaml",
}  # fmt: skip
"""Files that commands write, or the reader or another project has."""


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that an annotation holds, and whether it is one of a mapping's values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, list, typing.Annotated, typing.Union, types.UnionType):
        for argument in arguments:
            found, _ = _model_in(argument)
            if found is not None:
                return found, origin is dict
    return None, origin is dict


def known(parts: list[str]) -> bool:
    """Whether a dotted key of a recipe exists."""
    section: type[BaseModel] | None = Recipe
    place = 0
    while place < len(parts):
        if section is None or parts[place] not in section.model_fields:
            return False
        section, named = _model_in(section.model_fields[parts[place]].annotation)
        place += 2 if named else 1  # the name of a language, or of what else a mapping is of
        if section is None:
            return named or place >= len(parts) or parts[0] == "deepspeed"
    return True


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_recipes_exist(name: str) -> None:
    """Inline ``section.key`` and ``section.key=value``, wherever the first word is a section of the recipe."""
    sections = set(Recipe.model_fields)
    for code in documents.inline_code(ROOT / name):
        key = re.match(r"'?([a-z_]+(?:\.[\w{}*,]+)+)(?:=|'|:|$)", code)
        if key is None or key[1].split(".")[0] not in sections or re.search(KINDS + "$", key[1]):
            continue
        for spelled in _spelled(key[1]):
            assert known(spelled.split(".")), f"{name}: `{code}`: no such key"


def dotted(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """Keys of nested mappings."""
    for key, value in values.items():
        yield before + key
        if isinstance(value, dict):
            yield from dotted(value, f"{before}{key}.")


def _spelled(key: str) -> list[str]:
    """``a.{b,c}.d`` as ``a.b.d`` and ``a.c.d``."""
    choices = re.search(r"\{([^}]*)\}", key)
    if choices is None:
        return [key]
    return [key.replace(choices[0], choice) for choice in choices[1].split(",")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with what documents say the reader has."""
    (tmp_path / "imported" / "qwen").mkdir(parents=True)
    model = {"layers": 2, "hidden_size": 64, "heads": 4, "context": 8192}
    tokenizer = {"vocab_size": 600, "ranks": "imported/qwen/tokenizer"}
    values = {"model": model, "data": {"tokenizer": tokenizer}}
    (tmp_path / "imported" / "qwen" / "model.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts_of_recipes(document: Path) -> Iterator[str]:
    """Fragments that documents show: each as a whole of sections. Lines that repeat a key are alternatives."""
    for block in documents.blocks(document, "yaml"):
        if re.search("^name: ", block, re.M):
            continue
        text = block.replace("{...}", "{files: [a.txt]}")
        if text.startswith("  "):
            text = "languages:\n" + text
        keys = re.findall(r"^(\w+):", text, re.M)
        for part in text.splitlines() if len(keys) > len(set(keys)) else [text]:
            key = part.partition(":")[0]
            inside = {"nli": "evaluation", "pawsx": "evaluation", "en": "languages", "de": "languages"}.get(key)
            yield f"{inside}:\n" + re.sub("^", "  ", part, flags=re.M) if inside else part


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_valid(name: str, desk: Path) -> None:
    """Whole recipes load; fragments do in place of what real_150m has there."""
    whole = documents.recipe(ROOT / name)
    if whole is not None:
        (desk / "mine.yaml").write_text(whole)
        load_recipe("mine.yaml")
    for part in parts_of_recipes(ROOT / name):
        if "..." in part:  # not whole: its keys alone are looked at
            given = yaml.safe_load(part.replace("...", ""))
            assert all(known(key.split(".")) for key in dotted(given)), part
            continue
        values = load_recipe("real_150m").model_dump(mode="json")
        for key, section in yaml.safe_load(part).items():
            values[key] = (values[key] or {}) | section
        validate(values, name)


PROGRAMS = [command for command in documents.commands() if command.program is not None]


class Parsed(Exception):  # noqa: N818
    """Ends a launcher once it has read its command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


@pytest.mark.parametrize("command", PROGRAMS, ids=str)
def test_command_lines_are_taken(command: Command, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options by the launcher's own parser; recipes and changes of them by the loader."""
    program = command.program
    assert program is not None
    name = program.removesuffix(".py").replace("/", ".")
    if command.arguments == []:  # "launchers/pretrain.py ...", which stands for what is said elsewhere
        assert importlib.util.find_spec(name) is not None
        return
    if name == "prealign.config":
        if "--reference" not in command.arguments:
            load_recipe(command.arguments[0], command.arguments[1:])
        return
    for parse in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, parse, _raising(getattr(argparse.ArgumentParser, parse)))
    monkeypatch.setattr(sys, "argv", [program, *command.arguments])
    whole = documents.recipe(ROOT / command.document)
    example = documents.recipe(ROOT / "prealign/data/README.md")
    for file in ("mine.yaml", "tutorial.yaml"):
        (desk / file).write_text(f"{whole or example}\ntranslation: {{model: gpt-4o}}\n")
    if (ROOT / name.replace(".", "/")).is_dir():  # python -m with a package
        name += ".__main__"
    with pytest.raises(Parsed) as read:
        importlib.import_module(name).main()
    found = read.value.arguments
    if "config" in found:
        load_recipe(found.config, getattr(found, "overrides", []))


def _raising(parse: Callable[..., argparse.Namespace]) -> Callable[..., None]:
    reading = False

    def instead(parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> Any:
        nonlocal reading
        if reading:  # one of the two calls the other
            return parse(parser, *arguments, **options)
        reading = True
        try:
            raise Parsed(parse(parser, *arguments, **options))
        finally:
            reading = False

    return instead
