"""YAML -> `Recipe`: ``base:`` inheritance, ``key.sub=value`` overrides, one-line errors that name file and key."""

import datetime
import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prealign.config.paths import expand
from prealign.config.recipe import Recipe
from prealign.errors import UserError

_INSTALLED = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "configs"
"""Recipes and sample text: of an installed package, or of the checkout."""


def load_recipe(config: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load and validate a recipe.

    ``config`` is a path, or the name of a file of ``configs/`` without its extension. ``overrides`` are
    ``key.sub=value`` strings whose values are YAML. Later wins: bases in their order, the file, the overrides. Raises
    `UserError`.
    """
    path = _find(config)
    values = _read(path, seen=())
    for override in overrides:
        _merge(values, _parse_override(override))
    return validate(values, str(path))


def validate(values: dict[str, Any], origin: str) -> Recipe:
    """Validate a plain mapping; ``origin`` is named in errors."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, origin)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _find(config: str) -> Path:
    try:
        candidates = [Path(expand(config))]
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--config: {error}") from None
    if (ours := in_configs(config)) is not None:
        candidates.append(ours)
    if not Path(config).suffix:
        candidates += [Path("configs") / f"{config}.yaml", CONFIGS / f"{config}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    known = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    near = difflib.get_close_matches(Path(config).stem, known, n=1)
    raise UserError(
        f"--config {config}: no such file; expected a YAML file or one of {known}"
        + (f"; did you mean '{near[0]}'?" if near else "")
    )


def in_configs(path: str) -> Path | None:
    """What ``configs/...`` stands for where there is no such file; None for another path."""
    parts = Path(path).parts
    return CONFIGS.joinpath(*parts[1:]) if parts[:1] == ("configs",) else None


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, a repeated key is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            where = f"{self.name}, line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{where}: found a list or mapping as a key; expected one word")
            if key_node.value in seen:
                raise UserError(f"{where}: key '{key_node.value}' is given twice; remove one")
            seen.add(key_node.value)
        return node


# as YAML 1.2 has it, only true and false are truth values: "no" is Norwegian
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def _yaml(text: str, origin: str) -> Any:
    loader = _Loader(text)
    loader.name = origin
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{origin}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    finally:
        loader.dispose()


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """One file with its bases merged below it."""
    if path.resolve() in seen:
        raise UserError(
            f"{path}: found a circle of base files; expected each file to be reached once; remove one 'base'"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: found bytes that are not UTF-8; expected a YAML file in UTF-8") from None
    own = _yaml(text, str(path))
    if not isinstance(own, dict):
        raise UserError(f"{path}: found {type(own).__name__}; expected a mapping of recipe keys")
    bases = own.pop("base", [])
    merged: dict[str, Any] = {}
    listed = bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) and base for base in listed):
        raise UserError(f"{path}: base: found {bases!r}; expected a path or a list of paths, or no 'base'")
    for base in listed:
        base_path = path.parent / expand(base)
        if not base_path.is_file() and (ours := in_configs(base)) is not None:
            base_path = ours
        if not base_path.is_file():
            raise UserError(f"{path}: base: no such file '{base_path}'; expected a path relative to {path.parent}/")
        _merge(merged, _read(base_path, (*seen, path.resolve())))
    _merge(merged, own)
    return merged


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"override '{override}': expected key.sub=value")
    result: Any = _yaml(value, f"override '{override}'")
    for part in reversed(key.split(".")):
        result = {part: result}
    return result


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


_BRANCH = re.compile(r"literal\[|list\[|constrained-(?:float|int|str)$|(?:float|int|bool)$")
"""What validation calls the branches of a union, behind the key."""

_READ_AS = {
    bool: "a truth value",
    int: "a number",
    float: "a number",
    datetime.date: "a date",
    datetime.datetime: "a time",
    type(None): "nothing",
}


def _explain(error: ValidationError, origin: str) -> str:
    """The first problem of a validation, in one line."""
    problems = error.errors(include_url=False)
    first = problems[0]
    alternatives = _alternatives(problems)
    location = tuple(part for part in first["loc"] if not _BRANCH.match(str(part)))
    key = ".".join(str(part) for part in location) or "recipe"
    others = len({_place(problem) for problem in problems}) - 1
    more = f" (and {others} more)" if others else ""
    if first["type"] == "extra_forbidden":
        siblings = _fields_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), siblings, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {sorted(siblings)}"
        return f"{origin}: {key}: unknown key; {hint}{more}"
    if first["type"] == "missing":
        return f"{origin}: {key}: missing; add it{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{origin}: {key}: {message}{more}" if location else f"{origin}: {message}{more}"
    expected = " or ".join(alternatives) or message[0].lower() + message[1:]
    hint = ""
    if location[-1:] == ("[key]",):
        key = ".".join(str(part) for part in location[:-1])
    if first["type"] == "string_type" and (kind := _READ_AS.get(type(first["input"]))):
        written = f"write '{first['input']}'" if first["input"] is not None else "give a value"
        hint = f"; YAML reads it as {kind} where it is not quoted: {written}"
    return f"{origin}: {key}: found {first['input']!r}; expected: {expected}{hint}{more}"


def _place(problem: Any) -> tuple[int | str, ...]:
    """Where a problem is; all branches of a union are at one place."""
    location = problem["loc"]
    end = next((at for at, part in enumerate(location) if _BRANCH.match(str(part))), len(location))
    return tuple(location[:end])


def _alternatives(problems: Sequence[Any]) -> list[str]:
    """What each branch of a union takes, where the first problem is of one; else nothing."""
    union = _place(problems[0])
    branches: dict[str, str] = {}
    for problem in problems:
        if _place(problem) == union != problem["loc"]:
            branches.setdefault(problem["loc"][len(union)], _taken(problem, problem["loc"][len(union)]))
    return list(branches.values())


def _taken(problem: Any, branch: str) -> str:
    """What a branch takes, in words."""
    words = _KINDS.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    if problem["type"] in _BOUNDS:
        words = f"a number {words}"
    return f"a list, each item {words}" if branch.startswith("list[") and problem["type"] != "list_type" else words


_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_KINDS = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "list_type": "a list",
}
"""What is expected, by the type of a problem."""


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at a key path, whatever stands between (a dict of sections, an optional section)."""
    annotation: Any = Recipe
    for part in location:
        section = _section_in(annotation)
        if section is not None and part in section.model_fields:
            annotation = section.model_fields[str(part)].annotation
        # otherwise the part is a key of a mapping whose values are sections: the annotation stays
    section = _section_in(annotation)
    return list(section.model_fields) if section else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (dict, list, typing.Annotated, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            if (section := _section_in(argument)) is not None:
                return section
    return None
