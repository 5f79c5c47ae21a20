"""How a stage is spread over ranks, and what one of its steps has to do: what a plan varies, and what it does not."""

from dataclasses import dataclass, replace
from typing import Any

from prealign.config import Recipe
from prealign.config.model import ModelConfig
from prealign.config.running import Compile, Recompute, compiles_by_default
from prealign.config.stage import Stage
from prealign.errors import UserError

TOKENS_PER_WORD = 2.5
"""Tokens of a word of a word batch: the mean of what `launchers/benchmark.py` draws (1 to 4)."""


@dataclass(frozen=True)
class Layout:
    """``zero_stage`` to ``micro_batch_size`` as in the recipe. ``recompute``, ``recompute_words``: every so many-th
    block is recomputed in passes of text and of words; None: no block. ``wide_gradients``: they add up in fp32 over
    micro-batches; None: as `prealign.distributed.engine` has it (`accumulates_wide`). ``wide_exchange``: ranks exchange
    them in fp32. ``overlap``: ZeRO reduces them beside the backward pass, unless that is compiled. ``bucket``: elements
    that ZeRO reduces at a time. ``offload``: the optimizer's state lies in host memory. ``fp8``: products of blocks are
    in fp8, which no plan counts. ``megatron``: tensor ranks split norms as well and exchange beside products, and
    gradients in fp32 are exchanged beside the backward pass, as Megatron-LM's and nanotron's do and ours do not: for
    times of theirs."""

    zero_stage: int
    tensor_size: int
    sequence_size: int
    micro_batch_size: int
    recompute: int | None
    recompute_words: int | None
    bf16: bool = True
    wide_gradients: bool | None = None
    wide_exchange: bool = True
    overlap: bool = False
    bucket: int = 500_000_000
    offload: bool = False
    compile: Compile = False
    fp8: bool = False
    megatron: bool = False

    @classmethod
    def of(cls, stage: Stage) -> "Layout":
        """The recipe's own."""
        recipe, parallel = stage.recipe, stage.recipe.parallel
        text, words = parallel.activation_checkpointing, parallel.word_activation_checkpointing
        zero: dict[str, Any] = recipe.deepspeed.get("zero_optimization", {})
        overlap = zero.get("overlap_comm")
        accumulated: str | None = recipe.deepspeed.get("data_types", {}).get("grad_accum_dtype")
        return cls(
            zero_stage=parallel.zero_stage,
            tensor_size=parallel.tensor_parallel_size,
            sequence_size=parallel.sequence_parallel_size,
            micro_batch_size=recipe.batch.micro_batch_size,
            recompute=recompute_every(text),
            recompute_words=recompute_every(text if words is None else words),
            bf16=parallel.weights == "bf16",
            wide_gradients={"fp32": True, "bf16": False}.get(accumulated) if accumulated is not None else None,
            overlap=parallel.zero_stage == 3 if overlap is None else bool(overlap),
            bucket=int(zero.get("reduce_bucket_size", 500_000_000)),
            wide_exchange=recipe.deepspeed.get("communication_data_type") in (None, "fp32"),
            offload=recipe.offloads_optimizer,
            compile=stage.compile,
            fp8=recipe.parallel.precision == "fp8" and stage.name == "pretrain",  # of the align stage no products are
        )

    @property
    def compiled(self) -> bool:
        """Whether passes run through torch.compile; ``auto`` counts as on a CUDA device where the trial succeeds."""
        if self.compile == "auto":
            return compiles_by_default(self.zero_stage, self.tensor_size, self.sequence_size)
        return self.compile

    @property
    def resolved(self) -> "Layout":
        """Equal for layouts that run alike: with what ``auto`` comes to."""
        return replace(self, compile=self.compiled)

    @property
    def itemsize(self) -> int:
        """Bytes of a weight in the forward pass."""
        return 2 if self.bf16 else 4

    def accumulates_wide(self, sequences: int, gpus: int) -> bool:
        """Whether the micro-batches of a step of so many ``sequences`` add up in a buffer of fp32 beside bf16."""
        if self.wide_gradients is not None:
            return self.bf16 and self.wide_gradients
        has_sums = self.zero_stage == 3 or (self.zero_stage > 0 and not self.offload)
        return self.bf16 and has_sums and sequences > self.micro_batch_size * self.data_size(gpus)

    @property
    def reduced_itemsize(self) -> int:
        """Bytes of a gradient that ranks exchange."""
        return 4 if self.wide_exchange else self.itemsize

    def data_size(self, gpus: int) -> int:
        """Ranks, or groups of ranks, with rows of their own. Raises `UserError`."""
        shared = self.tensor_size * self.sequence_size
        if gpus % shared:
            raise UserError(
                f"parallel: found tensor_parallel_size={self.tensor_size} x sequence_parallel_size="
                f"{self.sequence_size} on {gpus} GPUs; expected a number of GPUs that divides by {shared}"
            )
        return gpus // shared

    def state_size(self, gpus: int) -> int:
        """Ranks over which ZeRO shards: all but tensor ranks."""
        return gpus // self.tensor_size


@dataclass(frozen=True)
class Workload:
    """One step of a stage over all ranks. ``sequences`` of text, of ``model.context`` tokens; ``words`` of a word batch
    in one of ``words_every`` steps, of ``tokens_per_word`` tokens, in the loss of ``aligned_layers``. ``anchors``:
    their share. ``fused_cross_entropy``: the loss is taken by our kernel."""

    model: ModelConfig
    vocab_size: int
    sequences: int
    words: int = 0
    words_every: float = 1
    aligned_layers: int = 0
    anchors: float = 1.0
    tau: float = 0.1
    tokens_per_word: float = TOKENS_PER_WORD
    fused_cross_entropy: bool = True

    @classmethod
    def of(cls, stage: Stage, tokens_per_word: float = TOKENS_PER_WORD) -> "Workload":
        """Of a stage. Raises `UserError` where its words are counted by coverage, which needs prepared data."""
        recipe, align = stage.recipe, stage.recipe.align
        words = every = layers = 0
        if stage.word_steps is not None:
            if align.words_per_step is None:
                raise UserError(
                    f"align.coverage: found {align.coverage:g}, which is of a table; expected, for a plan without "
                    f"prepared data, align.words_per_step=N align.coverage=null"
                )
            words, every, layers = align.words_per_step, stage.word_steps.every, _aligned_layers(recipe)
        return cls(
            model=recipe.model,
            vocab_size=recipe.padded_vocab_size,
            sequences=recipe.batch.global_batch_size,
            words=words,
            words_every=every or 1,
            aligned_layers=layers,
            anchors=align.anchor_fraction,
            tau=align.tau,
            tokens_per_word=tokens_per_word,
        )

    @property
    def word_layers(self) -> int:
        """Layers that words are pooled in, whatever the loss takes of them."""
        return self.model.layers + (1 if self.model.tied_embeddings else 2)


def recompute_every(mode: Recompute) -> int | None:
    """``none``, ``full`` or k -> None, 1 or k."""
    return mode if isinstance(mode, int) else {"none": None, "full": 1}[mode]


def _aligned_layers(recipe: Recipe) -> int:
    chosen = recipe.align.layers
    return len(chosen) if chosen != "all" else recipe.last_layer + 1
