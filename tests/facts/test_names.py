"""Names: no word twice, equally many tokens in a type, nothing but seed and type decides."""

from prealign.facts.names import Names


def tokens(name: str) -> int:
    return len(name) // 3 + name.count(" ")


def draw(seed: int, avoid: set[str], **counts: int) -> dict[str, list[str]]:
    names = Names(seed, tokens, avoid)
    return {kind: [names.draw(kind) for _ in range(count)] for kind, count in counts.items()}


def test_names() -> None:
    drawn = draw(1, set(), person=400, city=400, book=400)
    words = [word.lower() for names in drawn.values() for name in names for word in name.split()]
    assert len(words) == len(set(words)) == 1600
    for names in drawn.values():
        assert len({tokens(name) for name in names}) == 1
        assert all(word.isalpha() and word.istitle() for name in names for word in name.split())
    assert all(len(name.split()) == 2 for name in drawn["person"])
    assert drawn == draw(1, set(), person=400, city=400, book=400)
    assert drawn["city"] != draw(2, set(), city=400)["city"]


def test_words_of_the_text_are_avoided() -> None:
    first = draw(1, set(), city=20)["city"]
    avoided = {first[3].lower(), first[7].lower()}
    assert draw(1, avoided, city=18)["city"] == [name for name in first if name.lower() not in avoided]
