"""The recipe: every number of a run, validated in one place.

Sizes are in the units their names say; budgets of tokens count positions of text, and word batches come beside them. A
recipe is written as YAML (`prealign.config.load_recipe`) and printed, resolved, by ``python -m prealign.config FILE
[key=value ...]``.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from prealign.config.evaluation import EvaluationConfig
from prealign.config.facts import FactsConfig, facts_period
from prealign.config.languages import with_traits
from prealign.config.model import ModelConfig
from prealign.config.paths import ExpandedPath
from prealign.config.precision import check_fp8_fits
from prealign.config.running import AnomaliesConfig, CheckpointConfig, LogConfig, ParallelConfig, WatchdogConfig
from prealign.config.sections import Count, Fraction, Section
from prealign.config.texts import LanguageConfig, ShareConfig
from prealign.config.tokenizer import TokenizerConfig
from prealign.config.training import AlignConfig, BatchConfig, CodeSwitchConfig, PretrainConfig
from prealign.config.translation import TranslationConfig
from prealign.errors import UserError

_NAME = re.compile(r"\w[\w-]*")
_TAKEN = {
    "tokenizer", "words", "translations", "heldout_words", "lexicon", "coverage", "codeswitch", "clone_words", "facts",
    "llm",
}  # fmt: skip
"""Folders under `data.dir` beside those of languages."""
_MOST_PADDING = 1024
"""Rows that an extended vocabulary may be padded by."""


StageName = Literal["align", "pretrain"]


class MixturePhaseConfig(Section):
    """Weights from a step on."""

    from_step: Count
    """Step of the pretrain stage."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]]
    """New weights by name; the others keep what they have."""


class MixtureConfig(Section):
    """The run's size, where languages have weights."""

    tokens: Count | None = None
    """Training tokens of the whole run, align stage included; texts with a weight share what `tokens` of the others
    leave."""
    phases: list[MixturePhaseConfig] = []
    """Changes of weights, in the order of their steps. Before the first, and in the align stage, each text has its own
    `weight`. Without phases (and without a weight on a text with `active`) the weights are turned into token budgets,
    which runs with and without an align stage meet alike; phases count steps, so there only the total is the same."""


class DataConfig(Section):
    """What `launchers/prepare.py` writes."""

    dir: ExpandedPath
    """Folder of the prepared data; several runs share it."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    heldout_fraction: Fraction = 0.001
    """Share of the documents, drawn by their content, that is kept for evaluation."""
    shard_tokens: Count | None = None
    """Write training text in shards of so many tokens, each a store of its own (``train-00000-of-00012.bin``), for file
    systems and tools that do not take large files. Samples and draws do not depend on it. By default one file."""
    invalid_utf8: Literal["replace", "refuse"] = "replace"
    """Undecodable bytes: replaced by U+FFFD and counted, or an error."""


class LexiconConfig(Section):
    """The alignment table."""

    min_count: Count = 1
    """Words that occur less often in the source training text are left out."""
    top_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Use the most frequent words only (beta of the paper's Table 4), for alignment and code-switching alike."""
    max_words: Count = 1
    """Translations of more words than this are left out; the language's `leading_words` do not count."""
    max_translations: Count | None = None
    """At most this many translations per word and language, best first."""
    max_sources: Count | None = None
    """A translation that the dictionaries give for more source words than this is left out: a label ("cf.", "see") that
    was taken for a word. The coverage report lists the translations that are most shared."""
    heldout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the translated words, drawn by their spelling, that is kept for evaluation: neither they nor their
    translations are in the table, on either side of a pair. Words that would take much of the table with them are not
    drawn (`prealign.lexicon.heldout`)."""
    permute: Literal["none", "align", "both"] = "none"
    """Control experiment: give every word the translations of another one that is about as frequent and as long in
    tokens, by a seeded permutation; for the align stage alone, or for code-switching too."""


class OptimizerConfig(Section):
    """AdamW with decoupled weight decay on matrices only."""

    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """Decay of the second moment."""
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """Of matrices."""
    gradient_clipping: Annotated[float, Field(ge=0.0)] = 1.0
    """Maximal global gradient norm; 0 turns clipping off."""


_NOT_OF_DEEPSPEED = {
    "train_batch_size": "batch.global_batch_size",
    "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
    "gradient_accumulation_steps": "the sizes in batch",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "the recipe's own section optimizer",
    "scheduler": "learning_rate, min_learning_rate and warmup of align and pretrain",
    "fp16": "parallel.precision",
    "bf16.enabled": "parallel.precision",
    "zero_optimization.stage": "parallel.zero_stage",
    "tensor_parallel": "parallel.tensor_parallel_size",
}
"""Keys of a DeepSpeed configuration that the recipe has under names of its own, which say what a run may go on with."""


class Recipe(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]
    """Names the run folder too."""
    seed: int = 1
    """Of initial weights, order of samples, code-switching and word batches."""
    run_dir: ExpandedPath | None = None
    """Run folder; `runs/<name>` by default."""
    stages: list[StageName] = ["align", "pretrain"]
    """`[pretrain]` alone is Joint Training (with `codeswitch.ratio: 0`)."""
    source_language: str = "en"
    """The language that words are translated from, and whose text is code-switched."""
    languages: dict[str, LanguageConfig]
    mixture: MixtureConfig = MixtureConfig()
    data: DataConfig
    lexicon: LexiconConfig = LexiconConfig()
    translation: TranslationConfig | None = None
    model: ModelConfig
    batch: BatchConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    align: AlignConfig = AlignConfig()
    pretrain: PretrainConfig = PretrainConfig()
    codeswitch: CodeSwitchConfig = CodeSwitchConfig()
    parallel: ParallelConfig = ParallelConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    facts: FactsConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    anomalies: AnomaliesConfig = AnomaliesConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    log: LogConfig = LogConfig()
    loader_workers: Annotated[int, Field(ge=0)] = 2
    """Data loading processes per rank, and one more for words where a stage has any; 0 loads in the training
    process."""
    deepspeed: dict[str, Any] = {}
    """Merged verbatim over the generated DeepSpeed configuration, but for what other keys of the recipe say."""

    @model_validator(mode="before")
    @classmethod
    def _known_languages(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("languages"), dict):
            return values | {"languages": with_traits(values["languages"])}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = list(self.languages)
        if self.source_language not in self.languages:
            raise ValueError(f"source_language: found '{self.source_language}'; expected one of languages: {names}")
        for name, language in self.languages.items():
            original = language.clone_of
            if original is not None and (original not in self.languages or self.languages[original].clone_of):
                raise ValueError(
                    f"languages.{name}.clone_of: found '{original}'; expected a language of this recipe that has text"
                )
            if language.clone_level == "word" and original is not None and not self.languages[original].space_prefix:
                raise ValueError(
                    f"languages.{name}.clone_level: found 'word'; '{original}' is written without spaces; "
                    f"expected 'token'"
                )
            if language.clone_level == "word" and self.model.init == "perfect_clone":
                raise ValueError(
                    f"model.init: found 'perfect_clone' and languages.{name}.clone_level: word; its tokens stand for "
                    f"other words than the original's; expected clone_level: token"
                )
        self._check_mixture()
        self._check_stores()
        self._check_extension()
        self._check_parallel()
        self._check_evaluation()
        last = self.last_layer
        if isinstance(self.align.layers, list):
            chosen = self.align.layers
            if not chosen or chosen != sorted(set(chosen)) or chosen[-1] > last:
                raise ValueError(
                    f"align.layers: found {chosen}; expected 'all' or ascending layers from 0 to {last}, at least one"
                )
        if self.stages not in (["align"], ["pretrain"], ["align", "pretrain"]):
            raise ValueError(f"stages: found {self.stages}; expected [align], [pretrain] or [align, pretrain]")
        if self.aligns and self.pretrain.init_from is not None:
            raise ValueError("pretrain.init_from: found a folder beside the stage 'align'; expected stages: [pretrain]")
        return self

    def _check_stores(self) -> None:
        """What only text can have, of languages whose text is a store of tokens."""
        for name in [*self.languages, *self.extra_texts]:
            text = getattr(self.sources[name], "text", None)
            if text is None or not text.store:
                continue
            key = f"{self.source_key(name)}.text.store"
            if self.data.tokenizer.ranks is None:
                raise ValueError(
                    f"{key}: found token ids and no data.tokenizer.ranks, by which they mean something; expected the "
                    f"tokenizer that the store was made with"
                )
            owner, _, extra = name.partition(".")
            clones = [clone for clone in self.clones if self.languages[clone].clone_of == name]
            for clone in [owner] if extra else clones:
                if self.languages[clone].clone_level == "word":
                    raise ValueError(
                        f"{key}: found tokens, and languages.{clone}.clone_level: word, which rewrites text; expected "
                        f"clone_level: token, or text in files"
                    )

    def _check_extension(self) -> None:
        extension = self.data.tokenizer.extension
        if self.model.new_rows != "pieces" and (extension is None or self.model.imported_from is None):
            raise ValueError(
                f"model.new_rows: found '{self.model.new_rows}' without data.tokenizer.extension, or without a "
                f"checkpoint in model.init; there are no new rows then; leave it out"
            )
        if extension is None:
            return
        if len(set(extension.languages)) < len(extension.languages):
            raise ValueError(
                f"data.tokenizer.extension.languages: found {extension.languages}; expected each language once"
            )
        if self.padded_vocab_size - self.vocab_size >= _MOST_PADDING:
            raise ValueError(
                f"model.vocab_multiple: found {self.model.vocab_multiple:,} with data.tokenizer.extension, which pads "
                f"{self.vocab_size:,} rows to {self.padded_vocab_size:,}; expected a small one, as 128 (a checkpoint's "
                f"model.yaml has its own number of rows)"
            )
        for name in extension.languages:
            text = self.languages[name].text if name in self.languages else None
            if text is None or text.store:
                raise ValueError(
                    f"data.tokenizer.extension.languages: found '{name}'; expected languages of this recipe that have "
                    f"text in files or on the hub"
                )

    def _check_parallel(self) -> None:
        tensor, sequence = self.parallel.tensor_parallel_size, self.parallel.sequence_parallel_size
        if self.model.heads % (tensor * sequence):
            raise ValueError(
                f"parallel: found tensor_parallel_size={tensor}, sequence_parallel_size={sequence} and "
                f"model.heads={self.model.heads}; expected heads divisible by their product"
            )
        if not self.model.kv_heads_divide(tensor):
            raise ValueError(
                f"parallel.tensor_parallel_size: found {tensor} and model.kv_heads={self.model.kv_heads}; expected one "
                f"that divides the other"
            )
        if self.model.resolved_ffn_size % tensor:
            raise ValueError(
                f"parallel.tensor_parallel_size: found {tensor} and model.ffn_size={self.model.ffn_size}; expected "
                f"ffn_size divisible by it"
            )
        if self.model.context % sequence:
            raise ValueError(
                f"parallel.sequence_parallel_size: found {sequence} and model.context={self.model.context}; expected "
                f"context divisible by it"
            )
        if self.parallel.compile is True and self.parallel.zero_stage == 3:
            raise ValueError(
                "parallel.compile: found true with parallel.zero_stage=3, whose gathering of weights breaks the graph "
                "at every layer; expected zero_stage 0 to 2"
            )
        if self.parallel.compile is True and self.pretrain.align_every is not None:
            raise ValueError(
                "parallel.compile: found true with pretrain.align_every, whose words give every step other shapes; "
                "expected one of the two"
            )
        check_fp8_fits(self.parallel, self.model, self.pretrain.align_every)
        kept = self.pretrain.align_every is not None and self.pretrain.align_words_per_step is None
        alone = not self.aligns and self.pretrain.init_from is None
        if kept and alone and self.align.coverage is not None:
            raise ValueError(
                f"pretrain.align_every: found {self.pretrain.align_every} and align.coverage={self.align.coverage:g} "
                f"without an align stage, whose steps a coverage is of; expected pretrain.align_words_per_step"
            )
        for path, instead in _NOT_OF_DEEPSPEED.items():
            section, _, key = path.partition(".")
            found = self.deepspeed.get(section)
            if found is not None and (not key or (isinstance(found, dict) and key in found)):
                raise ValueError(f"deepspeed.{path}: found a value; expected {instead} in its place")

    def _check_evaluation(self) -> None:
        stride, context = self.evaluation.stride, self.model.context
        if stride is not None and stride > context:
            raise ValueError(
                f"evaluation.stride: found {stride}; expected at most model.context ({context}), else tokens would be "
                "left out; lower it, or set null"
            )
        for name in self.facts_languages:
            if name not in self.languages:
                raise ValueError(f"facts.learned_in: found '{name}'; expected languages of {list(self.languages)}")
        for task in ("nli", "pawsx"):
            settings = getattr(self.evaluation, task)
            for name in settings.test if settings is not None else {}:
                if name not in self.languages:
                    raise ValueError(
                        f"evaluation.{task}.test: found '{name}'; expected languages of {list(self.languages)}"
                    )
                if settings.test[name].generated is not None and name not in [self.source_language, *self.clones]:
                    raise ValueError(
                        f"evaluation.{task}.test.{name}: found generated pairs, which are English; expected a file "
                        "or a dataset"
                    )
        for name in self.evaluation.parallel:
            if name not in self.targets:
                raise ValueError(f"evaluation.parallel: found '{name}'; expected target languages: {self.targets}")

    def _check_mixture(self) -> None:
        for name, language in self.languages.items():
            for each in (name, *language.sources):
                if not _NAME.fullmatch(each) or (each == name and each in _TAKEN):
                    raise ValueError(
                        f"languages: found the name '{each}'; expected letters, digits, '_' and '-', and for a "
                        f"language none of {sorted(_TAKEN)}, which are folders of data.dir"
                    )
        weighted = [name for name, share in self.sources.items() if share.weight is not None]
        if bool(weighted) != (self.mixture.tokens is not None):
            raise ValueError(
                f"mixture.tokens: found {self.mixture.tokens} and weights for {weighted or 'no language'}; expected "
                f"both or neither"
            )
        steps = [phase.from_step for phase in self.mixture.phases]
        if steps != sorted(set(steps)):
            raise ValueError(f"mixture.phases: found from_step {steps}; expected ascending steps")
        for phase in self.mixture.phases:
            unknown = [name for name in phase.weights if name not in weighted]
            if unknown:
                raise ValueError(
                    f"mixture.phases: found a weight for '{unknown[0]}'; expected one of those that have a 'weight': "
                    f"{weighted}"
                )

    @property
    def sources(self) -> dict[str, ShareConfig]:
        """What the sample stream draws on, in its numbering: every language's own text, the extra texts, then facts."""
        extra = {f"{name}.{key}": item for name, lang in self.languages.items() for key, item in lang.sources.items()}
        facts = self.facts.sources(self.facts_languages, self.model.context) if self.facts is not None else {}
        return dict(self.languages) | extra | facts

    @property
    def extra_texts(self) -> list[str]:
        """Those of `sources` that a recipe gives beside the languages' own text."""
        return [name for name in list(self.sources)[len(self.languages) :] if facts_period(name) is None]

    @property
    def facts_languages(self) -> list[str]:
        """Languages in which facts are written."""
        if self.facts is None:
            return []
        if self.facts.learned_in is not None:
            return self.facts.learned_in
        clones = [name for name in self.clones if self.languages[name].clone_of == self.source_language]
        return [self.source_language, *clones]

    def source_key(self, source: str) -> str:
        """Where one of `sources` stands in the recipe."""
        if (period := facts_period(source)) is not None:
            return f"facts ({source.partition('.')[0]}, period {period})"
        language, _, extra = source.partition(".")
        return f"languages.{language}.sources.{extra}" if extra else f"languages.{language}"

    @property
    def language_of_source(self) -> tuple[int, ...]:
        """Number of the language of each of `sources`."""
        names = list(self.languages)
        return tuple(names.index(source.partition(".")[0]) for source in self.sources)

    @property
    def targets(self) -> list[str]:
        """The languages that words are translated into, in recipe order."""
        return [name for name in self.languages if name != self.source_language]

    @property
    def clones(self) -> list[str]:
        """The clone languages, in recipe order; clone ``i`` has token ids ``(i + 1) * vocab_size + original``."""
        return [name for name, language in self.languages.items() if language.clone_of]

    def token_offset(self, language: str) -> int:
        """What is added to a tokenizer id to get the language's id: 0, or the clone's block of the vocabulary."""
        if self.languages[language].clone_of is None:
            return 0
        return (self.clones.index(language) + 1) * self.data.tokenizer.vocab_size

    @property
    def vocab_size(self) -> int:
        """Token ids in use: one block per clone beside the tokenizer's own."""
        return self.data.tokenizer.vocab_size * (1 + len(self.clones))

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding tables."""
        multiple = self.model.vocab_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def last_layer(self) -> int:
        """Number of the last layer that words are aligned in: the output embedding, or the last block where it is tied
        to the input's."""
        return self.model.layers + (not self.model.tied_embeddings)

    @property
    def document_ends(self) -> list[int] | None:
        """End-of-document ids, one per vocabulary block, where attention starts anew; None where it does not."""
        if not self.model.reset_at_document:
            return None
        block = self.data.tokenizer.vocab_size
        return [block * number + self.data.tokenizer.end_id for number in range(1 + len(self.clones))]

    def batch_of(self, stage: StageName, dp_size: int = 1) -> BatchConfig:
        """Sizes of a stage's steps, with ``dp_size`` as in `accumulation`. Raises `UserError` when its
        `global_batch_size` does not divide by it."""
        own = self.align.global_batch_size if stage == "align" else None
        size, section = (self.batch.global_batch_size, "batch") if own is None else (own, "align")
        if size % dp_size:
            raise UserError(
                f"{section}: found global_batch_size={size} on {dp_size} {self._who}; expected a multiple of {dp_size}"
            )
        return BatchConfig.over(dp_size, size, self.batch.micro_batch_size)

    @property
    def aligns(self) -> bool:
        """Whether the run has an align stage of its own."""
        return "align" in self.stages

    @property
    def injected_facts(self) -> FactsConfig:
        """`facts`, of a recipe that has them; raises `ValueError` for another."""
        if self.facts is None:
            raise ValueError("the recipe has no facts")
        return self.facts

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir if self.run_dir is not None else Path("runs") / self.name

    @property
    def offloads_optimizer(self) -> bool:
        """Whether `deepspeed` puts the optimizer's state outside of the device."""
        zero = self.deepspeed.get("zero_optimization") or {}
        return (zero.get("offload_optimizer") or {}).get("device", "none") != "none"

    def accumulation(self, dp_size: int) -> int:
        """Micro-batches per step and rank, where ``dp_size`` ranks, or groups of ranks, have rows of text of
        their own; of a stage's recipe, whose batch divides (`batch_of`), else `ValueError`."""
        micro_batches, rest = divmod(self.batch.global_batch_size, self.batch.micro_batch_size * dp_size)
        if rest:
            raise ValueError(f"{self.batch!r} does not divide over {dp_size} {self._who}")
        return micro_batches

    @property
    def _who(self) -> str:
        shared = self.parallel.tensor_parallel_size * self.parallel.sequence_parallel_size
        return "ranks" if shared == 1 else f"groups of {shared} ranks"
