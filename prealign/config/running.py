"""Sections of the recipe about a run: how it is spread over devices, what is kept of it, what ends it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prealign.config.sections import Count, Section

Recompute = Literal["none", "full"] | Annotated[int, Field(ge=2)]
"""Which blocks' activations are recomputed in the backward pass: none, all, or every k-th block's."""
Compile = Literal["auto"] | bool
"""Whether passes go through torch.compile; ``auto``: on a CUDA device, where a trial succeeds."""


class ParallelConfig(Section):
    """How the run is spread over devices."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO: 1 shards the optimizer's state over the ranks, 2 gradients too, 3 weights too; 0 nothing."""
    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    """Of weights in the forward and backward pass; the optimizer keeps fp32 weights in any case, and gradients add up
    in fp32 over ranks and micro-batches (over the latter in bf16 with `zero_stage: 0`, and with 1 or 2 and an offloaded
    optimizer; DeepSpeed's own choice, bf16 for both, is
    `deepspeed: {communication_data_type: bf16, data_types: {grad_accum_dtype: bf16}}`). `fp8`: as bf16, but the
    products of the pretrain stage's blocks are in fp8 (torchao's, scaled by tensor), on GPUs of compute capability 8.9
    and above with torchao installed (extra `fp8`); it gains time with `compile` alone. Not with ZeRO 3, tensor ranks,
    `pretrain.align_every`, or sizes that 16 does not divide. It has not run on a GPU."""
    tensor_parallel_size: Count = 1
    """Consecutive ranks over which the weights of every block are split; they see the same batch. Keep it within a
    node. Where it divides the rows of the token embedding (the vocabulary, padded to `model.vocab_multiple`), these and
    the LM head's are split too."""
    sequence_parallel_size: Count = 1
    """Ranks over which the positions of every row of text are split, for contexts that one device cannot hold:
    attention exchanges positions for heads (DeepSpeed-Ulysses), everything else works on a rank's own tokens."""
    activation_checkpointing: Recompute = "none"
    """`full` recomputes every block in the backward pass, a number `k` every k-th one."""
    word_activation_checkpointing: Recompute | None = None
    """The same for passes that carry a word batch, which may have several times the tokens of a pass of text; by
    default as `activation_checkpointing`."""
    compile: Compile = "auto"
    """Run the pretrain stage's passes through torch.compile (the first one takes minutes). `auto`: on a CUDA device,
    with ZeRO 0 or 1, one tensor rank and one sequence rank, without `pretrain.align_every` and
    `model.reset_at_document`, which give every step other shapes; where a trial before the first step fails on any
    rank, one line says why and all train uncompiled. `true`: with ZeRO 2, tensor and sequence ranks and documents too,
    and what fails ends the run. The align stage is left out: its words give every step other shapes."""

    @property
    def weights(self) -> Literal["fp32", "bf16"]:
        """What weights are in the forward and backward pass."""
        return "fp32" if self.precision == "fp32" else "bf16"


def compiles_by_default(zero_stage: int, tensor_size: int, sequence_size: int) -> bool:
    """Whether ``compile: auto`` compiles in a layout on a CUDA device. ZeRO-3 gathers weights at every layer, which
    breaks the graph; ZeRO-2 gives gradients away as they come, and those of a compiled pass come all at once, at its
    end; passes of tensor and sequence ranks wait for each other, so that none can try alone."""
    return zero_stage < 2 and tensor_size == sequence_size == 1


class CheckpointConfig(Section):
    """What is kept of a run while it trains."""

    every: Count = 1000
    """Steps between checkpoints; there is always one at the end of a stage."""
    keep: Count = 2
    """Newest checkpoints kept per stage."""
    keep_every: Count | None = None
    """Checkpoints at multiples of this many steps are kept for good; a multiple of `every`."""
    asynchronous: bool = True
    """Write files while training goes on; takes host memory for a rank's share of weights and optimizer state (12 bytes
    a parameter, over the ranks of ZeRO). `false` waits for them."""
    allow_changed_data: bool = False
    """Go on from a checkpoint, or from align weights, on other prepared data than it was trained on."""

    @model_validator(mode="after")
    def _kept_steps_are_saved(self) -> "CheckpointConfig":
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(f"keep_every: found {self.keep_every}; expected a multiple of every={self.every}")
        return self


class AnomaliesConfig(Section):
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
    """Standard deviations above the mean from which on a loss is a spike."""
    window: Annotated[int, Field(ge=2)] = 128
    """Steps; there are no spikes before a stage has made as many."""
    rollback_batches: Count = 1
    """Batches passed over after a rollback, the offending one last."""
    limit: Annotated[int, Field(ge=0)] = 10
    """More steps than these without their update, within a window, stop the run in any case."""


class WatchdogConfig(Section):
    """What ends a run in which nothing moves any more."""

    timeout: Annotated[float, Field(ge=0.0)] = 1800.0
    """Seconds between two forward passes of a rank (saving and waiting for data included) after which the stacks of all
    ranks go to `RUN/hang/` and the run ends with an error; 0 waits forever."""


class WandbConfig(Section):
    """Weights & Biases. Online or offline, its key and its server are said by its own environment variables
    (`WANDB_MODE=offline`, `WANDB_API_KEY`, ...)."""

    project: str = "prealign"
    """Project of the run."""
    name: str | None = None
    """Name of the run; the recipe's by default."""
    entity: str | None = None
    """User or team that the project belongs to; wandb's own default where it is null."""


class LogConfig(Section):
    """What a run records."""

    every: Count = 10
    """Steps between rows of `metrics.jsonl`."""
    tensorboard: bool = True
    """Write `RUN/tensorboard/` too."""
    wandb: WandbConfig | None = None
    """Show the run in Weights & Biases too; `{}`, or any of its keys, asks for it."""
