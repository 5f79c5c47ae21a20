"""configs/README.md says what the schema says, and explains every key."""

from prealign.config import Recipe
from prealign.config.reference import reference
from tests.processes import ROOT


def test_the_page_in_the_repository_is_up_to_date() -> None:
    written = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    assert written == reference(), "python -m prealign.config --reference > configs/README.md"


def test_every_key_is_explained() -> None:
    schema, page = Recipe.model_json_schema(), reference()
    for name, section in [("Recipe", schema), *schema["$defs"].items()]:
        assert section.get("description"), name
        for key, value in section["properties"].items():
            is_section = "$ref" in str(value)
            assert value.get("description") or is_section, f"{name}.{key}"
            assert is_section or f"`{key}`" in page, f"{name}.{key}"


def test_values_are_said_in_words() -> None:
    page = reference()
    assert (
        "| `weight` | number from 0 | `1.0` | What the alignment loss is multiplied with beside the LM loss. |" in page
    )
    assert "| **`global_batch_size`** | integer from 1 |  | Sequences of one optimizer step over all ranks. |" in page
    assert "## `languages.NAME.text`, `languages.NAME.sources.NAME.text`" in page
