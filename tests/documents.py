"""What the documents say: their fenced blocks, inline code, headings, links, and the commands among these."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "kernels", "launchers", "prealign", "tests")
DOCUMENTS = sorted(
    {path.resolve() for path in ROOT.glob("*.md")}
    | {path.resolve() for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")}
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PROGRAM = re.compile(r"(?:^|\s)(launchers/\w+\.py|-m prealign[\w.]*)(?=\s|$)")

PLACEHOLDERS = {
    "R": "enclone_demo",
    "RECIPE": "enclone_demo",
    "RUN": "runs/enclone_demo",
    "DIR": "out",
    "CHECKPOINT": "models/qwen",
    "FOLDER": "models/qwen",
    "N": "2",
    "SUITE": "table1",
    "LABEL=RUN": "A=runs/enclone_demo",
}
"""What stands for something of the reader's, and what the tests put there."""


@dataclass(frozen=True)
class Command:
    """A command line of a document; ``text`` as it is written, without its comment."""

    document: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"

    @property
    def words(self) -> list[str]:
        """Its words up to a redirection, optional ones included, with values for placeholders."""
        text = re.sub(r"\s\[(--[^\]]*)\]", r" \1", self.text)  # [--ranks N] is an option, [pretrain] a value
        text = re.sub(r"\s\[key=value \.\.\.\]", "", text).replace("\\|", "|")
        words = [word.partition("|")[0].removesuffix(",...") for word in shlex.split(text) if word != "..."]
        return [PLACEHOLDERS.get(word, word) for word in words[: words.index(">") if ">" in words else None]]

    @property
    def program(self) -> str | None:
        """The launcher (``launchers/x.py``) or module of ours (``prealign.x``) that it starts."""
        found = _PROGRAM.search(self.text)
        return found[1].removeprefix("-m ") if found is not None else None

    @property
    def arguments(self) -> list[str]:
        """What it gives the program."""
        assert self.program is not None
        return self.words[self.words.index(self.program) + 1 :]


def blocks(document: Path, language: str) -> Iterator[str]:
    """Fenced blocks of a language."""
    for found in _FENCE.finditer(document.read_text(encoding="utf-8")):
        if found[1] == language:
            yield found[2]


def recipe(document: Path) -> str | None:
    """The whole recipe that a document shows, the reader's own."""
    return next((block for block in blocks(document, "yaml") if re.search("^name: ", block, re.MULTILINE)), None)


def scripts(document: Path) -> dict[str, str]:
    """Python that a document shows, by the file name in its first line (``# name.py``)."""
    found = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks(document, "python")]
    return {name[1]: block for name, block in found if name is not None}


def prose(document: Path) -> str:
    """The text outside of fenced blocks."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def inline_code(document: Path) -> list[str]:
    """Inline code, each on one line."""
    return [" ".join(code.split()) for code in _CODE.findall(prose(document))]


def links(document: Path) -> list[str]:
    """Targets of links and images."""
    return _LINK.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found


@cache
def commands() -> list[Command]:
    """Command lines of all documents and of the launchers' help: lines of ``bash`` blocks, inline code that starts a
    launcher with arguments, and inline code that goes on with one (``...``)."""
    found: dict[Command, None] = {}
    for document in DOCUMENTS:
        name = str(document.relative_to(ROOT))
        lines = [line for block in blocks(document, "bash") for line in _lines(block)]
        for code in inline_code(document):
            if code.startswith("... "):
                code = f"launchers/pretrain.py --config R {code.removeprefix('... ')}"
            if re.search(r"(launchers/\w+\.(py|sh)|-m prealign[\w.]*) \S", code):
                lines.append(code)
        found |= dict.fromkeys(Command(name, line) for line in lines)
    for launcher in sorted((ROOT / "launchers").glob("*.py")):
        text = launcher.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
        lines = [line for line in _lines(text, "    ") if "launchers/" in line]
        found |= dict.fromkeys(Command(f"launchers/{launcher.name}", line) for line in lines)
    return list(found)


def _lines(text: str, indent: str = "") -> list[str]:
    """Lines that begin with ``indent``, those that go on joined, without comments."""
    joined = re.sub(r"\s*\\+\n\s*", " ", text)
    lines = [re.sub(r"\s+# .*$", "", line).strip() for line in joined.splitlines() if line.startswith(indent)]
    return [line for line in lines if line and not line.startswith("#")]
