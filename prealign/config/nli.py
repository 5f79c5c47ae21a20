"""The sections of the recipe about tasks on pairs of sentences: zero-shot cross-lingual transfer, ZS-CLT."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from prealign.config.paths import ExpandedPath
from prealign.config.sections import Count, Fraction, Section


class NliDataConfig(Section):
    """Pairs of sentences with a label: a file, a dataset of the Hugging Face hub, or generated; a bare path stands for
    ``{file: ...}``."""

    file: ExpandedPath | None = None
    """``sentence<tab>sentence<tab>label`` lines, compressed (.xz, .gz) or not; the label is one of `labels`."""
    hub: str | None = None
    """Dataset id on the hub, as ``facebook/xnli``, or a local folder of one, with columns premise and hypothesis, or
    sentence1 and sentence2, and label (a name, or its number among `labels`)."""
    hub_name: str | None = None
    """Configuration of the dataset, as ``en``."""
    hub_split: str = "train"
    """Its split."""
    generated: Count | None = None
    """Number of pairs of a small English task of our own (`prealign.evaluation.generated_pairs`), for models too small
    for XNLI. Nothing that is measured on it is comparable with the paper."""
    first: Annotated[int, Field(ge=0)] = 0
    """Number of the first of them; train, dev and test must not share any."""
    max_rows: Count | None = None
    """Take the first so many pairs."""

    @model_validator(mode="after")
    def _one_source(self) -> "NliDataConfig":
        if [self.file, self.hub, self.generated].count(None) != 2:
            raise ValueError("found none or several of 'file', 'hub' and 'generated'; expected exactly one of them")
        return self


def _path_is_file(value: Any) -> Any:
    return {"file": value} if isinstance(value, str | Path) else value


Rows = Annotated[NliDataConfig, BeforeValidator(_path_is_file)]


class NliConfig(Section):
    """Fine-tuning on source-language pairs, tested in every language::

        nli:
          train: {hub: facebook/xnli, hub_name: en}
          dev: {hub: facebook/xnli, hub_name: en, hub_split: validation}
          test: {en: {hub: facebook/xnli, hub_name: en, hub_split: test}, de: test-de.tsv}

    Another task has other labels::

        pawsx:
          labels: [different, paraphrase]
          train: {hub: google-research-datasets/paws-x, hub_name: en}
          ...
    """

    labels: Annotated[list[str], Field(min_length=2)] = ["entailment", "neutral", "contradiction"]
    """In the order of the numbers that datasets have for them."""

    train: Rows
    """Source-language pairs to fine-tune on."""
    dev: Rows
    """Source-language pairs that choose the epoch; nothing else does."""
    test: dict[str, Rows]
    """By language. A clone of the source language that is not listed is tested on the source's pairs, cloned."""
    epochs: Count = 3
    """Passes over `train`."""
    batch_size: Count = 32
    """Pairs of one optimizer step over all ranks."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-5
    """Of all weights, after a linear warmup; then linearly down to 0."""
    warmup: Fraction = 0.06
    """Share of the steps."""
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3]
    """Each decides the classifier's initial weights and the order of the pairs."""

    @model_validator(mode="after")
    def _labels_fit(self) -> "NliConfig":
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: found {self.labels}; expected each once")
        usual = NliConfig.model_fields["labels"].default
        parts = [
            ("train", self.train),
            ("dev", self.dev),
            *((f"test.{name}", rows) for name, rows in self.test.items()),
        ]
        end, before = 0, ""
        for name, rows in sorted(parts, key=lambda part: part[1].first):
            if rows.generated is None:
                continue
            if self.labels != usual:
                raise ValueError(f"labels: found {self.labels} with generated pairs, which have {usual}")
            if rows.first < end:
                raise ValueError(f"{name}.first: found {rows.first}; expected at least {end}, where {before} ends")
            end, before = rows.first + rows.generated, name
        return self
