"""The section of the recipe about measurements: during training, and by `launchers/evaluate.py`."""

from typing import Annotated

from pydantic import Field

from prealign.config.nli import NliConfig
from prealign.config.paths import ExpandedPath
from prealign.config.sections import Count, Section


class LeakageConfig(Section):
    """Sampled continuations of held-out source text, searched for words of the target languages (paper, Table 3)."""

    samples: Count = 1000
    """Continuations; the shares that the paper reports (0.02 %) need 10,000 and more."""
    prompt_tokens: Count = 32
    """Tokens of held-out source text that a continuation follows."""
    length: Count = 64
    """Tokens sampled after each prompt; where prompt and continuation do not fit into `model.context`, leakage is not
    measured."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Sampling is from the whole vocabulary."""
    seed: int = 1
    """Of prompts and sampling."""


class EvaluationConfig(Section):
    """Held-out perplexity per language and the cosine of aligned words while training; what else
    `launchers/evaluate.py` measures."""

    every: Count = 1000
    """Steps between evaluations; there is always one before the first step of a stage and after its last."""
    tokens: Count = 1_000_000
    """At most this many held-out tokens per language."""
    stride: Count | None = None
    """Tokens from one window of held-out text to the next; null: `model.context`, windows that do not overlap. With
    less, a token behind the first window has at least ``context - stride`` tokens before it, for ``context / stride``
    times the compute. Where the context is short, the first tokens of a window weigh much, and most with
    code-switching: the first word of a window says little about the language of the next."""
    probe_words: Count = 1000
    """Aligned word pairs whose cosine is watched."""
    retrieval_words: Count = 2000
    """At most this many source words, each with its translations, among which `launchers/evaluate.py` retrieves."""
    parallel: dict[str, ExpandedPath] = {}
    """By target language, a file of ``source sentence<tab>translation`` lines for MEXA. A clone needs none."""
    parallel_sentences: Annotated[int, Field(ge=2)] = 100
    """Sentence pairs per language that MEXA compares; 100 as in its paper (a larger set is a harder task)."""
    leakage: LeakageConfig = LeakageConfig()
    nli: NliConfig | None = None
    pawsx: NliConfig | None = None
    """A second task of transfer, with labels of its own, as paraphrases are; of the same kind as `nli`."""
