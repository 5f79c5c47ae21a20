"""Every key of a recipe in Markdown, from the schema: ``python -m prealign.config --reference > configs/README.md``."""

import json
import re
from collections.abc import Iterator
from typing import Any

from prealign.config.recipe import Recipe

_HEAD = """# Recipes

<!-- written by: python -m prealign.config --reference > configs/README.md -->

A recipe is one YAML file with every number of a run; `base:` names files that it builds on, by their path from it or
from the checkout (`configs/...`), and `key.sub=value` on a command line changes single values. `python -m
prealign.config RECIPE` prints one with all its defaults. Batches are counted in sequences: a longer `model.context`
makes steps larger, unless `batch` gets smaller.

| recipe | what it is |
|---|---|
| `enclone_demo` | English and a clone of it, from the sample text that is here: minutes on two CPU cores |
| `enclone_small` | the same on one GPU: 12 x 512, 50M tokens of your English text |
| `enclone_150m` | the paper's main setting: 150M parameters, 10B tokens of English, 0.1B of a clone |
| `real_150m`, `real_400m`, `real_1p3b` | the paper's second setting: English to Chinese, German, Russian and Arabic |
| `real_2p7b`, `real_6p7b`, `real_13b` | beyond the paper |
| `llama_150m`, `llama_1p3b`, `llama_8b` | the second setting with Llama's block: rotary positions, RMSNorm, SwiGLU |
| `base/`, `models/` | what these build on |
| `suites/` | the paper's tables and figures ([how to run them](../prealign/suites/README.md)) |
| `results/` | what was measured |

[Your own language in ten minutes](tutorial.md) makes one; [choosing settings](settings.md) says what is known of them.

Keys in bold have no default. A value that says *or null* may be left empty.
"""


def reference() -> str:
    """The whole page."""
    schema = Recipe.model_json_schema()
    paths: dict[str, list[str]] = {}
    for path, name in _sections("", schema, schema["$defs"], ()):
        paths.setdefault(name, []).append(f"`{path}`")
    sections = [_section(", ".join(at), schema["$defs"][name]) for name, at in paths.items()]
    return "\n".join([_HEAD, _section("The recipe", schema), *sections])


def _sections(
    path: str, of: dict[str, Any], every: dict[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """(dotted path, name in the schema) of the sections below one, each kind of section once at a place."""
    for key, value in of["properties"].items():
        for name, kind in _references(value):
            here = f"{path}.{key}".lstrip(".") + {"many": ".NAME", "list": "[]", "one": ""}[kind]
            if name not in above:
                yield here, name
                yield from _sections(here, every[name], every, (*above, name))


def _references(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Sections that a value is made of: itself, the entries of a mapping, or those of a list."""
    for option in [value, *value.get("anyOf", [])]:
        inner = {"one": option, "list": option.get("items", {})}
        mapped: Any = option.get("additionalProperties") or next(iter(option.get("patternProperties", {}).values()), {})
        inner["many"] = mapped if isinstance(mapped, dict) else {}
        for kind, of in inner.items():
            if "$ref" in of:
                yield of["$ref"].rpartition("/")[2], kind


def _section(title: str, of: dict[str, Any]) -> str:
    lines = [f"## {title}", "", _prose(of.get("description", "")), ""]
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    required = of.get("required", [])
    for key, value in of["properties"].items():
        if any(True for _ in _references(value)) and "description" not in value:
            continue  # it has a section of its own
        shown = f"**`{key}`**" if key in required else f"`{key}`"
        lines.append(f"| {shown} | {_kind(value)} | {_default(value)} | {_cell(value.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def _default(value: dict[str, Any]) -> str:
    if "default" not in value:
        return ""
    default = value["default"]
    if isinstance(default, dict) and default:
        return ""  # a section's
    return f"`{json.dumps(default, ensure_ascii=False)}`".replace('"', "")


def _kind(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(option) for option in value["anyOf"]))
    if "$ref" in value:
        return "section"
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    plain = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "null"}
    kind = value.get("type", "")
    if kind == "array":
        inner = value.get("items") or {}
        return f"list of {_kind(inner)}" if inner else "list"
    if kind == "object":
        return "mapping"
    return plain.get(kind, "anything") + _bounds(value)


def _bounds(value: dict[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f" {word} {value[key]:g}" for key, word in words.items() if key in value)


def _prose(text: str) -> str:
    """A docstring as Markdown; its indented examples become code."""
    text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    lines, code = [], False
    for line in text.splitlines():
        if line.startswith("    ") and not code:
            lines.append("```yaml")
            code = True
        elif code and line and not line.startswith("    "):
            while lines[-1] == "":
                lines.pop()
            lines += ["```", ""]
            code = False
        lines.append(line.removeprefix("    ") if code else re.sub("::$", ":", line))
    if code:
        lines.append("```")
    return "\n".join(lines).strip()


def _cell(text: str) -> str:
    return " ".join(_prose(text).split()).replace("|", "\\|")
