"""The recipe: every number of a run, validated in one place.

Sizes are in the units their names say; counts of tokens include every position that enters the model. A recipe is
written as YAML (`prealign.config.load_recipe`) and printed, resolved, by ``python -m prealign.config FILE [key=value
...]``.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import regex
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from prealign.config.languages import with_facts
from prealign.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Text(Section):
    """Where the documents of one language come from: local files, or a dataset of the Hugging Face hub."""

    files: list[str] = []
    """Paths or glob patterns, read in sorted order; relative to the working directory."""
    hub: str | None = None
    """Dataset id on the hub, streamed; `hub_name`, `hub_split` and `hub_revision` go to `datasets.load_dataset`."""
    hub_name: str | None = None
    hub_split: str = "train"
    hub_revision: str | None = None
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """`auto` goes by the file name: .jsonl/.json, .parquet, .txt (compressed or not)."""
    field: str = "text"
    """The column or JSON key that holds the document."""
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    """What ends a document in a text file."""
    max_documents: Count | None = None
    """Stop after this many documents (before de-duplication)."""

    @model_validator(mode="after")
    def _one_source(self) -> "Text":
        if bool(self.files) == bool(self.hub):
            raise ValueError("found both or neither of 'files' and 'hub'; expected exactly one of them")
        return self


class Dictionary(Section):
    """A file of translations from the source language; in a list of them a bare path stands for ``{path: ...}``."""

    path: str
    """dictd and StarDict dictionaries are named by their `.index` and their `.ifo`."""
    format: Literal[
        "auto", "muse", "tsv", "dictd", "stardict", "tei", "ding", "cedict", "wiktextract", "json", "jsonl"
    ] = "auto"
    """`auto` goes by the file name, then by the first lines. `json` and `jsonl`: word -> translations, or word ->
    language -> translations."""
    inverted: bool | None = None
    """The file goes from the target language to the source; by default Ding and CC-CEDICT files do, others do not."""
    codes: list[str] = []
    """What a file of several languages calls this one; `languages.*.codes` by default."""
    traditional: bool = False
    """Take the traditional characters of CC-CEDICT in place of the simplified ones."""


def _path_is_dictionary(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Share(Section):
    """How much of the run a text gets: by ``tokens`` or by ``weight``, one of the two."""

    tokens: Annotated[int, Field(ge=0)] | None = None
    """Training tokens over the whole run, align stage and word batches included. More than the text has: several
    epochs, each in an order of its own."""
    weight: Annotated[float, Field(ge=0.0)] | None = None
    """Share, relative to the other weights, of what is left of `mixture.tokens`; `mixture.phases` can change it."""
    active: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)] | None] | None = None
    """``[from_step, to_step]``: take part in these steps of the pretrain stage only, ``to_step`` not included (null: to
    the end). `tokens` are spread evenly over them. The align stage then reads nothing of this text."""

    @model_validator(mode="after")
    def _one_share(self) -> "Share":
        if (self.tokens is None) == (self.weight is None):
            raise ValueError("found both or neither of 'tokens' and 'weight'; expected exactly one of them")
        if self.active is not None and self.active[1] is not None and self.active[0] >= self.active[1]:
            raise ValueError(f"active: found {list(self.active)}; expected from_step < to_step")
        return self


class Source(Share):
    """Text beside a language's own: read in the pretrain stage only, never held out, not part of the tokenizer's
    training text nor of the word counts. In a clone's source the text is given in the original's words.

    Every token is read once an epoch: the last window is filled up from the beginning. Repeated documents are dropped;
    what shall be read f times has f times its tokens as budget.
    """

    text: Text


class Language(Share):
    """One language of the mixture. What is known of a language by its name (`prealign.config.languages`) fills the
    facts from `scripts` on; a recipe changes them, or gives them for a language that is not listed there."""

    text: Text | None = None
    sources: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Source] = {}
    """Extra texts by name, with budgets of their own; `mixture.phases` and the token account call them
    ``LANGUAGE.NAME``."""
    clone_of: str | None = None
    """Make this language a clone: documents of that language, with token ids shifted by the vocabulary size."""
    clone_share: Fraction = 0.01
    """Share of the original's training documents that become clone text (and leave the original's text)."""
    clone_level: Literal["token", "word"] = "token"
    """`token`: a clone's tokens are the original's, shifted. `word`: each word type first becomes another one of its
    length, by a seeded bijection (`prealign.text.clone_words`); then the tokens of that word are shifted."""
    clone_seed: int = 0
    """Which bijection, at level `word`."""
    dictionaries: list[Annotated[Dictionary, BeforeValidator(_path_is_dictionary)]] = []
    """Translations from the source language, merged; pairs that more of them give come first."""
    scripts: list[str] = []
    """Unicode scripts that its words are written in; none: any."""
    space_prefix: bool = True
    """Words are written with a space before them (false for Chinese): how a lone word is tokenised."""
    cased: bool = True
    """Its script has upper and lower case that a word at a sentence start takes."""
    word_length: tuple[Count, Count] = (1, 40)
    """Fewest and most characters of a translation."""
    leading_words: list[str] = []
    """Words that dictionaries put before an entry and that are no part of it ("to go", "der Hund")."""
    optional_marks: str = ""
    """Characters that dictionaries add and running text leaves out: Russian stress, Arabic vowel signs."""
    segmenter: Literal["none", "jieba"] = "none"
    """What finds words in text that is written without spaces."""
    codes: list[str] = []
    """What dictionaries of several languages call it; its name in the recipe by default."""

    @field_validator("scripts")
    @classmethod
    def _scripts_exist(cls, scripts: list[str]) -> list[str]:
        for script in scripts:
            try:
                regex.compile(rf"\p{{Script={script}}}")
            except regex.error:
                raise ValueError(f"found '{script}'; expected names of Unicode scripts, as Latin or Cyrillic") from None
        return scripts

    @model_validator(mode="after")
    def _one_origin(self) -> "Language":
        if (self.text is None) == (self.clone_of is None):
            raise ValueError("found both or neither of 'text' and 'clone_of'; expected exactly one of them")
        if self.clone_level == "word" and self.clone_of is None:
            raise ValueError("clone_level: found 'word' without 'clone_of'; expected a clone language")
        return self


class MixturePhase(Section):
    """Weights from a step on."""

    from_step: Count
    """Step of the pretrain stage."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]]
    """New weights by name; the others keep what they have."""


class Mixture(Section):
    """The run's size, where languages have weights."""

    tokens: Count | None = None
    """Training tokens of the whole run, align stage included; texts with a weight share what `tokens` of the others
    leave."""
    phases: list[MixturePhase] = []
    """Changes of weights, in the order of their steps. Before the first, and in the align stage, each text has its own
    `weight`. Without phases (and without a weight on a text with `active`) the weights are turned into token budgets,
    which runs with and without an align stage meet alike; phases count steps, so there only the total is the same."""


class Tokenizer(Section):
    """Byte-level BPE: trained on the text, or given as tiktoken ranks."""

    vocab_size: Annotated[int, Field(ge=257)] = 50_000
    """Byte-pair ranks plus the end-of-document token, which is the last id."""
    ranks: Path | None = None
    """A `.tiktoken` file (base64 token, rank) to load in place of training."""
    pattern: str | None = None
    """Pre-tokenizer regular expression; the default puts a token boundary at every word edge."""
    training_bytes: Count = 50_000_000
    """Text per language that the tokenizer is trained on."""


class Data(Section):
    """What `launchers/prepare.py` writes."""

    dir: Path
    tokenizer: Tokenizer = Tokenizer()
    heldout_fraction: Fraction = 0.001
    """Share of the documents, drawn by their content, that is kept for evaluation."""
    invalid_utf8: Literal["replace", "refuse"] = "replace"
    """Undecodable bytes: replaced by U+FFFD and counted, or an error."""


class Lexicon(Section):
    """The alignment table."""

    min_count: Count = 1
    """Words that occur less often in the source training text are left out."""
    top_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Use the most frequent words only (beta of the paper's Table 4), for alignment and code-switching alike."""
    max_words: Count = 1
    """Translations of more words than this are left out; the language's `leading_words` do not count."""
    max_translations: Count | None = None
    """At most this many translations per word and language, best first."""
    heldout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the translated words, drawn by their spelling, that is kept for evaluation: neither they nor their
    translations are in the table, on either side of a pair. Words that would take much of the table with them are not
    drawn (`prealign.lexicon.heldout`)."""
    permute: bool = False
    """Control experiment: give every word the translations of another one, by a seeded permutation."""


class Translation(Section):
    """Translation of the source words by an LLM behind any OpenAI-compatible endpoint (`launchers/translate.py`).

    The endpoint's key comes from the environment alone. The result is one word list a language,
    ``<data.dir>/llm/llm-<language>.tsv``, to be listed under `languages.*.dictionaries`::

        translation: {model: gpt-4o, input_price: 2.5, output_price: 10, language_names: {zh: Simplified Chinese}}
        translation: {model: Qwen3-32B, base_url: "http://127.0.0.1:8000/v1", concurrency: 64}
    """

    model: str
    base_url: str | None = None
    """The endpoint, up to and with ``/v1``; without it `OPENAI_BASE_URL` of the environment, else OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key (any value will do for an endpoint without keys)."""
    language_names: dict[str, str] = {}
    """What the prompt calls a language of the recipe where its code does not say enough."""
    instructions: str | None = None
    """In place of `prealign.lexicon.llm.prompt.INSTRUCTIONS`: what is wanted of a translation. Other instructions,
    another model or another language name ask for every word anew."""
    top_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the source words with at least `lexicon.min_count` occurrences, most frequent first, that is translated
    (`lexicon.top_fraction` then takes its share of the words that have a translation)."""
    words_per_request: Count = 50
    reply_format: Literal["auto", "json_schema", "json_object", "text"] = "auto"
    """How JSON is asked for. `auto` starts with a schema and steps down when the endpoint refuses."""
    request: dict[str, Any] = {}
    """Merged verbatim into the body of every request, such as ``{temperature: 0, max_completion_tokens: 8000}``."""
    requests_per_minute: Annotated[float, Field(gt=0.0)] = 300.0
    concurrency: Count = 8
    """Requests in flight at once."""
    timeout: Annotated[float, Field(gt=0.0)] = 120.0
    """Seconds until a reply must have come in whole."""
    attempts: Count = 8
    """Tries of one request before its words are asked for in smaller ones."""
    backoff: Annotated[float, Field(gt=0.0)] = 1.0
    """Seconds of the first wait after a failed try; doubles up to a minute, with jitter. Retry-After goes before it."""
    input_price: Annotated[float, Field(ge=0.0)] | None = None
    """For a million input tokens, in any currency; for the dry run and the account."""
    output_price: Annotated[float, Field(ge=0.0)] | None = None
    """For a million output tokens."""
    encoding: str = "o200k_base"
    """The tiktoken encoding that estimates tokens (fetched by tiktoken; without network the recipe's tokenizer)."""

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, url: str | None) -> str | None:
        if url is None:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("found credentials or a query in the URL; keys come from the environment alone")
        return url

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
            raise ValueError("expected the name of an environment variable, not a key")  # the value is not shown
        return name

    @field_validator("request")
    @classmethod
    def _only_options(cls, request: dict[str, Any]) -> dict[str, Any]:
        ours = {"model", "messages", "response_format", "stream", "n"}
        if wrong := sorted(ours & request.keys()):
            raise ValueError(f"found {wrong}; they are set by other keys, or by the program")
        if any(re.search("key|authorization|header|secret", name, re.IGNORECASE) for name in request):
            raise ValueError("found a name of a secret; keys come from the environment alone")
        return request


class Model(Section):
    """GPT-2 style decoder: learned positions, pre-LayerNorm, GELU."""

    layers: Count
    hidden_size: Count
    heads: Count
    context: Count = 1024
    ffn_multiple: Count = 4
    tied_embeddings: bool = False
    init_std: Annotated[float, Field(gt=0.0)] = 0.02
    init: Literal["random", "perfect_clone"] = "random"
    """`perfect_clone` copies the original's embedding rows, input and output, to its clones: the upper bound."""
    vocab_multiple: Count = 128
    """The embedding tables are padded to a multiple of this many rows."""
    reset_at_document: bool = False
    """Attention stops at document ends and positions start again."""
    attention: Literal["auto", "sdpa", "flash"] = "auto"
    """`auto` takes flash-attn on a GPU where it is installed, else torch's scaled_dot_product_attention."""

    @model_validator(mode="after")
    def _divisible(self) -> "Model":
        if self.hidden_size % self.heads:
            raise ValueError(
                f"found hidden_size={self.hidden_size} and heads={self.heads}; expected hidden_size divisible by heads"
            )
        return self


class Batch(Section):
    """Sizes in sequences of `model.context` tokens."""

    global_batch_size: Count
    """Sequences of one optimizer step over all ranks."""
    micro_batch_size: Count
    """Sequences of one forward pass on one rank."""


class Optimizer(Section):
    """AdamW with decoupled weight decay on matrices only."""

    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    gradient_clipping: Annotated[float, Field(ge=0.0)] = 1.0
    """Maximal global gradient norm; 0 turns clipping off."""


class Schedule(Section):
    """Linear warmup, then a cosine from `learning_rate` to `min_learning_rate`."""

    learning_rate: Annotated[float, Field(gt=0.0)]
    min_learning_rate: Annotated[float, Field(ge=0.0)]
    warmup: Fraction
    """Share of the stage's steps."""


class Align(Schedule):
    """The align stage: ``weight * sum_l L^l_align + L_LM`` on word batches and text that is not code-switched."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    min_learning_rate: Annotated[float, Field(ge=0.0)] = 5e-5
    warmup: Fraction = 0.05
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the run's steps spent here. Its text and word tokens are taken from the languages' budgets."""
    words_per_step: Annotated[int, Field(ge=2)] = 16_384
    """Rows of one word batch over all ranks, translations included; a group of words is never split."""
    sampling: Literal["uniform", "frequency"] = "uniform"
    max_translations: Count = 4
    """Translations per word and language in a word batch."""
    tau: Annotated[float, Field(gt=0.0)] = 0.1
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    anchors: Literal["all", "source"] = "all"
    anchor_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of these anchors, drawn anew each step, that have a loss term; every word stays a candidate of theirs."""
    layers: Literal["all"] | list[Annotated[int, Field(ge=0)]] = "all"
    """Layers in the loss: 0 is the input embedding, 1 to L the blocks, L + 1 the output embedding (untied)."""
    siblings: Literal["ignore", "positive", "negative"] = "ignore"
    """How two translations of one source word see each other."""
    include_self: bool = False
    """Keep the anchor itself in its denominator."""
    layer_reduce: Literal["sum", "mean"] = "sum"
    final_norm: bool = True
    """Take the last block's words after the final LayerNorm."""


class Pretrain(Schedule):
    """The pretrain stage: LM loss on the mixture, source text code-switched."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-4
    min_learning_rate: Annotated[float, Field(ge=0.0)] = 3e-5
    warmup: Fraction = 0.01
    init_from: Path | None = None
    """Run folder whose finished align stage gives the weights, when this run has no align stage of its own."""


class CodeSwitch(Section):
    """Code-switching of source-language text in the pretrain stage."""

    ratio: Fraction = 0.05
    """Probability that an occurrence of a word with a translation is replaced."""
    mode: Literal["input_only", "vanilla"] = "input_only"
    """`input_only`: targets stay in the source language. `vanilla`: train on the switched text (ablation)."""


class Parallel(Section):
    """How the run is spread over devices."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    activation_checkpointing: Literal["none", "full"] = "none"
    """`full` recomputes every block in the backward pass."""


class Evaluation(Section):
    """Held-out perplexity per language and the cosine of aligned words."""

    every: Count = 1000
    """Steps between evaluations; there is always one at the end of a stage."""
    tokens: Count = 1_000_000
    """At most this many held-out tokens per language."""
    probe_words: Count = 1000
    """Aligned word pairs whose cosine is watched."""


class Checkpoint(Section):
    every: Count = 1000
    """Steps between checkpoints; there is always one at the end of a stage."""
    keep: Count = 2
    """Newest checkpoints kept per stage."""
    keep_every: Count | None = None
    """Checkpoints at multiples of this many steps are kept for good; a multiple of `every`."""
    asynchronous: bool = False
    """Write files while training goes on; takes host memory for a rank's share of weights and optimizer state."""
    allow_changed_data: bool = False
    """Go on from a checkpoint, or from align weights, on other prepared data than it was trained on."""

    @model_validator(mode="after")
    def _kept_steps_are_saved(self) -> "Checkpoint":
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(f"keep_every: found {self.keep_every}; expected a multiple of every={self.every}")
        return self


class Anomalies(Section):
    """What happens when a step's loss or gradient is not finite, or its loss leaps.

    `skip` goes on without that step's update. `rollback` goes back to the last checkpoint and from there on without the
    batch's update. `stop` ends the run with an error; the last checkpoint stays. `report` only writes the batch down.
    Whatever happens, `RUN/STAGE/anomalies/step-N.json` says which samples the batch had.
    """

    nonfinite: Literal["skip", "rollback", "stop"] = "skip"
    """On NaN or infinity."""
    spike: Literal["report", "skip", "rollback", "stop"] = "report"
    """On a loss above `mean + sigmas x standard deviation` of the last `window` steps."""
    sigmas: Annotated[float, Field(gt=0.0)] = 8.0
    window: Annotated[int, Field(ge=2)] = 128
    """Steps; there are no spikes before a stage has made as many."""
    rollback_batches: Count = 1
    """Batches passed over after a rollback, the offending one last."""
    limit: Annotated[int, Field(ge=0)] = 10
    """More steps than these without their update, within a window, stop the run in any case."""


class Watchdog(Section):
    """What ends a run in which nothing moves any more."""

    timeout: Annotated[float, Field(ge=0.0)] = 1800.0
    """Seconds between two forward passes of a rank (saving and waiting for data included) after which the stacks of all
    ranks go to `RUN/hang/` and the run ends with an error; 0 waits forever."""


class Log(Section):
    every: Count = 10
    """Steps between rows of `metrics.jsonl`."""
    tensorboard: bool = True


class Recipe(Section):
    """A whole experiment."""

    name: str
    seed: int = 1
    run_dir: Path | None = None
    """Run folder; `runs/<name>` by default."""
    stages: list[Literal["align", "pretrain"]] = ["align", "pretrain"]
    """`[pretrain]` alone is Joint Training (with `codeswitch.ratio: 0`)."""
    source_language: str = "en"
    languages: dict[str, Language]
    mixture: Mixture = Mixture()
    data: Data
    lexicon: Lexicon = Lexicon()
    translation: Translation | None = None
    model: Model
    batch: Batch
    optimizer: Optimizer = Optimizer()
    align: Align = Align()
    pretrain: Pretrain = Pretrain()
    codeswitch: CodeSwitch = CodeSwitch()
    parallel: Parallel = Parallel()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    anomalies: Anomalies = Anomalies()
    watchdog: Watchdog = Watchdog()
    log: Log = Log()
    loader_workers: Annotated[int, Field(ge=0)] = 2
    """Data loading processes per rank; 0 loads in the training process."""
    deepspeed: dict[str, Any] = {}
    """Merged verbatim over the generated DeepSpeed configuration."""

    @model_validator(mode="before")
    @classmethod
    def _known_languages(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("languages"), dict):
            return values | {"languages": with_facts(values["languages"])}
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
        last = self.model.layers + (not self.model.tied_embeddings)
        if isinstance(self.align.layers, list):
            chosen = self.align.layers
            if not chosen or chosen != sorted(set(chosen)) or chosen[-1] > last:
                raise ValueError(
                    f"align.layers: found {chosen}; expected 'all' or ascending layers from 0 to {last}, at least one"
                )
        if self.stages not in (["align"], ["pretrain"], ["align", "pretrain"]):
            raise ValueError(f"stages: found {self.stages}; expected [align], [pretrain] or [align, pretrain]")
        if "align" in self.stages and self.pretrain.init_from is not None:
            raise ValueError("pretrain.init_from: found a folder beside the stage 'align'; expected stages: [pretrain]")
        return self

    def _check_mixture(self) -> None:
        dotted = [name for name in self.languages if "." in name]
        if dotted:
            raise ValueError(f"languages: found the name '{dotted[0]}'; expected names without a dot")
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
    def sources(self) -> dict[str, Share]:
        """What the sample stream draws on, in its numbering: every language's own text, then the extra texts."""
        extra = {f"{name}.{key}": item for name, lang in self.languages.items() for key, item in lang.sources.items()}
        return dict(self.languages) | extra

    def source_key(self, source: str) -> str:
        """Where one of `sources` stands in the recipe."""
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
    def document_ends(self) -> list[int] | None:
        """End-of-document ids, one per vocabulary block, where attention starts anew; None where it does not."""
        if not self.model.reset_at_document:
            return None
        block = self.data.tokenizer.vocab_size
        return [block * (number + 1) - 1 for number in range(1 + len(self.clones))]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir if self.run_dir is not None else Path("runs") / self.name

    def accumulation(self, ranks: int) -> int:
        """Micro-batches per step and rank; raises `UserError` when the batch does not divide."""
        batch = self.batch
        per_pass = batch.micro_batch_size * ranks
        if batch.global_batch_size % per_pass:
            raise UserError(
                f"batch: found global_batch_size={batch.global_batch_size} and micro_batch_size="
                f"{batch.micro_batch_size} on {ranks} ranks; expected global_batch_size divisible by "
                f"micro_batch_size x ranks = {per_pass}"
            )
        return batch.global_batch_size // per_pass
