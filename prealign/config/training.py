"""What the stages train with: batch sizes, learning rates, the alignment loss, code-switching."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from prealign.config.paths import ExpandedPath
from prealign.config.sections import Count, Fraction, Section


class BatchConfig(Section):
    """Sizes in sequences of `model.context` tokens."""

    global_batch_size: Count
    """Sequences of one optimizer step over all ranks."""
    micro_batch_size: Count
    """Sequences of one forward pass on one rank, at most: it takes as many as divide the rank's share of a step."""

    @classmethod
    def over(cls, ranks: int, global_batch_size: int, most: int) -> "BatchConfig":
        """Sizes for as many ``ranks``, which divide ``global_batch_size``: a forward pass takes as many of a rank's
        sequences as divide them evenly, at most ``most``."""
        per_rank = global_batch_size // ranks
        micro = next(rows for rows in range(min(per_rank, most), 0, -1) if per_rank % rows == 0)
        return cls(global_batch_size=global_batch_size, micro_batch_size=micro)


class ScheduleConfig(Section):
    """Linear warmup, then a cosine from `learning_rate` to `min_learning_rate`."""

    learning_rate: Annotated[float, Field(gt=0.0)]
    """Peak, at the end of the warmup."""
    min_learning_rate: Annotated[float, Field(ge=0.0)]
    """At the last step; a cosine falls to it from the end of the warmup."""
    warmup: Fraction
    """Share of the stage's steps over which the rate rises in a straight line."""

    @model_validator(mode="after")
    def _falls(self) -> "ScheduleConfig":
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate: found {self.min_learning_rate:g}; expected at most learning_rate "
                f"({self.learning_rate:g})"
            )
        return self


_WORDS_PER_STEP = 16_384


class AlignConfig(ScheduleConfig):
    """The align stage: ``weight * sum_l L^l_align + L_LM`` on word batches and text that is not code-switched."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """Peak, at the end of the warmup."""
    min_learning_rate: Annotated[float, Field(ge=0.0)] = 5e-5
    """At the last step; a cosine falls to it from the end of the warmup."""
    warmup: Fraction = 0.05
    """Share of the stage's steps over which the rate rises in a straight line."""
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the run's text read here. It is taken from the languages' budgets; word batches come beside it."""
    global_batch_size: Count | None = None
    """Sequences of text in one step of this stage over all ranks; by default those of `batch`. Fewer give more steps,
    and with them more word batches, for the same text."""
    coverage: Annotated[float, Field(gt=0.0)] | None = None
    """How often the stage draws a row of the table (a word, source or target) on average; `words_per_step` follows from
    it, once the table is prepared: ``coverage x rows / steps``, at most the whole table. 3 to 6 align words, as found
    at small scales."""
    words_per_step: Annotated[int, Field(ge=2)] | None = None
    """Rows of one word batch over all ranks, translations included; a group of words is never split. In place of
    `coverage`; 16,384 where neither is given."""
    sampling: Literal["uniform", "frequency"] | Annotated[float, Field(ge=0.0, le=1.0)] = "uniform"
    """How source words are drawn: with the weight ``count ** p``, where p is 0 (`uniform`), 1 (`frequency`) or a number
    between them."""
    max_translations: Count = 4
    """Translations per word and language in a word batch."""
    tau: Annotated[float, Field(gt=0.0)] = 0.1
    """Temperature: cosines are divided by it."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """What the alignment loss is multiplied with beside the LM loss."""
    anchors: Literal["all", "source"] = "all"
    """Words that have a loss term: every word with a positive in the batch, or source words alone."""
    anchor_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of these anchors, drawn anew each step, that have a loss term; every word stays a candidate of theirs."""
    layers: Literal["all"] | list[Annotated[int, Field(ge=0)]] = "all"
    """Layers in the loss: 0 is the input embedding, 1 to L the blocks, L + 1 the output embedding (untied)."""
    siblings: Literal["ignore", "positive", "negative"] = "ignore"
    """How two translations of one source word see each other."""
    include_self: bool = False
    """Keep the anchor itself in its denominator."""
    layer_reduce: Literal["sum", "mean"] = "sum"
    """How the losses of the layers become one."""
    final_norm: bool = True
    """Take the last block's words after the final norm."""

    @model_validator(mode="before")
    @classmethod
    def _words_of_coverage(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("words_per_step") is not None:
            return values
        return values if values.get("coverage") is not None else values | {"words_per_step": _WORDS_PER_STEP}

    @model_validator(mode="after")
    def _one_of_two(self) -> "AlignConfig":
        if self.coverage is not None and self.words_per_step is not None:
            raise ValueError(
                f"found coverage={self.coverage:g} and words_per_step={self.words_per_step}; expected one of them; set "
                f"the other to null"
            )
        return self

    @property
    def sampling_power(self) -> float:
        """Exponent of a word's count in the weight that it is drawn with."""
        named = {"uniform": 0.0, "frequency": 1.0}
        return named[self.sampling] if isinstance(self.sampling, str) else self.sampling


class PretrainConfig(ScheduleConfig):
    """The pretrain stage: LM loss on the mixture, source text code-switched."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-4
    """Peak, at the end of the warmup."""
    min_learning_rate: Annotated[float, Field(ge=0.0)] = 3e-5
    """At the last step; a cosine falls to it from the end of the warmup."""
    warmup: Fraction = 0.01
    """Share of the stage's steps over which the rate rises in a straight line."""
    init_from: ExpandedPath | None = None
    """Run folder whose finished align stage gives the weights, when this run has no align stage of its own."""
    align_every: Count | None = None
    """Take a word batch, with the loss of the align stage, in every so many-th step of this stage too, the first
    included. It keeps the output embedding aligned, which nothing else does. Not in the paper."""
    align_words_per_step: Annotated[int, Field(ge=2)] | None = None
    """Rows of these word batches; by default `align.words_per_step`."""
    align_weight: Annotated[float, Field(ge=0.0)] | None = None
    """Weight of their loss; by default `align.weight`."""


class CodeSwitchConfig(Section):
    """Code-switching of source-language text in the pretrain stage."""

    ratio: Fraction = 0.05
    """Probability that an occurrence of a word with a translation is replaced."""
    mode: Literal["input_only", "vanilla"] = "input_only"
    """`input_only`: targets stay in the source language. `vanilla`: train on the switched text (ablation)."""
