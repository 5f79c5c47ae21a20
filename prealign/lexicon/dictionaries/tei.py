"""FreeDict's sources: TEI XML, read entry by entry."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from prealign.errors import UserError
from prealign.lexicon.dictionaries.opening import open_bytes


def read_tei(path: Path) -> Iterator[tuple[str, str, int]]:
    """(headword, translation, rank): ``entry/form/orth`` with ``sense/cit[@type=trans]/quote``, or ``trans/tr``."""
    with open_bytes(path) as file:
        try:
            ancestors: list[ElementTree.Element] = []
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if event == "start":
                    ancestors.append(element)
                    continue
                ancestors.pop()
                if _tag(element) in ("entry", "entryFree"):
                    yield from _entry(element)
                    element.clear()
                    if ancestors:
                        ancestors[-1].remove(element)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise UserError(f"{path}: not well-formed XML ({error}); expected a TEI dictionary") from None


def _entry(entry: ElementTree.Element) -> Iterator[tuple[str, str, int]]:
    forms = [element for element in entry if _tag(element) == "form"]
    headwords = [_text(orth) for form in forms for orth in form.iter() if _tag(orth) == "orth"]
    translations = list(_translations(entry))
    for headword in headwords:
        for rank, translation in enumerate(translations):
            yield headword, translation, rank


def _translations(element: ElementTree.Element) -> Iterator[str]:
    """In document order; example sentences and their translations (``cit type=example``) are passed over."""
    for child in element:
        kind = _tag(child)
        if kind == "cit" and child.get("type") in ("trans", "translation", "translationEquivalent"):
            yield from (_text(quote) for quote in child if _tag(quote) in ("quote", "form", "orth"))
        elif kind == "tr":
            yield _text(child)
        elif kind != "cit":
            yield from _translations(child)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())
