"""Bytes on a rank: what stays, what a pass keeps, what is there for a moment, and when they are most."""

from dataclasses import dataclass, field

from prealign.model.shapes import vocabulary_ranks
from prealign.planning.activations import block_bytes, kept_bytes
from prealign.planning.layout import Layout, Workload
from prealign.planning.states import States, parameter_groups, states

USABLE = 0.93
"""Share of a card's memory that tensors get: the rest is CUDA's, NCCL's, and gaps. Assumed."""

_FUSED_LOGITS = 1 << 30
"""Elements of logits that are there at a time (`prealign.objectives.cross_entropy`)."""
_WORKSPACE = 1 << 27
_TRIANGLE = 1 << 28
"""Elements of the alignment loss's workspace, with the whole square of pairs and with the triangle (`kernels`)."""
_TRIANGLE_TAU = 1 / 40
_TRIANGLE_ANCHORS = 0.4
_LEAST_SENT = 1 << 20
_GATHERED = 1 << 29
"""Bytes that a rank gives to a gather of word vectors, and that lie gathered, unless a layer or two take more."""
_JOINED = 500_000_000
"""Elements of gradients that DeepSpeed adds up between ranks at a time."""
_LIVE = 1_000_000_000
"""Elements of weights that ZeRO-3 keeps gathered (`stage3_max_live_parameters`)."""


@dataclass(frozen=True)
class Memory:
    """``parts``: bytes by name. ``peak``: the most that is there at once, ``when``. ``host``: in host memory."""

    parts: dict[str, float]
    peak: float
    when: str
    host: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)


def memory(work: Workload, layout: Layout, gpus: int) -> Memory:
    """The peak of a step, whose first pass carries the words."""
    held = states(work, layout, gpus)
    parts: dict[str, float] = {"weights": held.weights, "gradients": held.gradients, "optimizer": held.optimizer}
    parts |= _pass_parts(work, layout, gpus) | _word_parts(work, layout, gpus) | _zero_parts(work, layout, gpus, held)
    fixed = sum(parts[name] for name in ("weights", "gradients", "optimizer", "gathered weights"))
    kept = fixed + parts["activations"]
    phases = {
        "the LM loss": kept + parts["logits"] + parts["word vectors"] / 2,
        "the alignment loss": kept
        + parts["LM head's gradient"]
        + sum(parts[name] for name in ("word vectors", "gathered vectors", "kernel workspace")),
        "the backward pass": kept
        + sum(parts[name] for name in ("recomputed block", "block gradients", "word vectors", "buckets"))
        + parts["pass's gradients"],
        "the optimizer step": fixed + parts["step"],
    }
    when = max(phases, key=lambda name: phases[name])
    return Memory({name: size for name, size in parts.items() if size}, phases[when], when, held.host, phases)


def word_tokens(work: Workload, layout: Layout, gpus: int) -> float:
    """Tokens of words that a rank encodes in the pass that has them."""
    return work.words * work.tokens_per_word / layout.state_size(gpus)


def text_tokens(work: Workload, layout: Layout) -> float:
    """Tokens of text of a pass on a rank."""
    return layout.micro_batch_size * work.model.context / layout.sequence_size


def takes_triangle(work: Workload, layout: Layout, gpus: int) -> bool:
    """Whether the alignment loss computes half of the square of pairs: one rank, bf16, enough anchors, no low
    temperature."""
    alone = layout.state_size(gpus) == 1
    return alone and layout.bf16 and work.anchors >= _TRIANGLE_ANCHORS and work.tau >= _TRIANGLE_TAU


def layers_a_gather(work: Workload, layout: Layout, gpus: int) -> int:
    """How many layers' word vectors travel between ranks together (`prealign.kernels.distributed`)."""
    ranks, layers = layout.state_size(gpus), work.aligned_layers
    share = max(1, -(-work.words // ranks) * work.model.hidden_size * layout.itemsize)
    fitting = _GATHERED // (ranks * share)
    return max(1, min(-(-_LEAST_SENT // share), layers if fitting >= layers else fitting // 2, layers))


def _pass_parts(work: Workload, layout: Layout, gpus: int) -> dict[str, float]:
    model, size, split = work.model, layout.itemsize, layout.tensor_size
    text = text_tokens(work, layout)
    every = layout.recompute_words if work.words else layout.recompute
    tokens = text + word_tokens(work, layout, gpus)
    activations = tokens * kept_bytes(model, size, every, split)
    if work.words and work.words_every > 1:  # passes without words may keep more
        activations = max(activations, text * kept_bytes(model, size, layout.recompute, split))
    rows = work.vocab_size // vocabulary_ranks(work.vocab_size, split)
    gradients = 4.0 * rows * model.hidden_size + text * model.hidden_size * size
    inside = (2 if model.mlp == "gelu" else 3) * model.resolved_ffn_size / split + 2 * model.hidden_size
    return {
        "activations": activations,
        "recomputed block": tokens * block_bytes(model, size, split) if every else 0.0,
        "block gradients": tokens * inside * size,
        "logits": min(text * rows, _FUSED_LOGITS) * size + gradients,
        "LM head's gradient": gradients,
    }


def _word_parts(work: Workload, layout: Layout, gpus: int) -> dict[str, float]:
    ranks = layout.state_size(gpus)
    own, row = -(-work.words // ranks), work.model.hidden_size * layout.itemsize
    if not work.words:
        return dict.fromkeys(("word vectors", "gathered vectors", "kernel workspace"), 0.0)
    if takes_triangle(work, layout, gpus) and work.words**2 <= _TRIANGLE:
        workspace = float(work.words**2 * layout.itemsize)
    else:
        workspace = _WORKSPACE * layout.itemsize + 4.0 * own * work.model.hidden_size  # and a layer's gradient in fp32
    together = layers_a_gather(work, layout, gpus)
    gathered = min(2 * together, work.aligned_layers) * ranks * own
    whole = work.words if together > 1 or work.words % ranks else 0  # a layer of them, put together
    return {
        "word vectors": 2.0 * work.word_layers * own * row,  # and their gradients
        "gathered vectors": float(gathered + whole) * row if ranks > 1 else 0.0,
        "kernel workspace": workspace + own * work.words / 8,
    }


def _zero_parts(work: Workload, layout: Layout, gpus: int, held: States) -> dict[str, float]:
    ranks, buckets, gathered = layout.state_size(gpus), 0.0, 0.0
    count = held.weights / layout.itemsize * (ranks if layout.zero_stage == 3 else 1)
    step = float(held.step)
    if layout.zero_stage == 1 and layout.accumulates_wide(work.sequences, gpus):
        step = 4.0 * min(_JOINED, count)  # gradients on their way between ranks, when the passes are over
    elif layout.zero_stage > 0:
        buckets = (2.0 if layout.overlap and layout.zero_stage < 3 else 1.0) * layout.bucket * layout.itemsize
        if ranks > 1 and layout.reduced_itemsize > layout.itemsize:
            buckets += layout.bucket * layout.reduced_itemsize  # a bucket on its way
    if layout.zero_stage == 3:
        gathered = min(count, _LIVE) * layout.itemsize if ranks > 1 else 0.0
    # a compiled backward pass is one graph: it hands over all weights' gradients when it ends, whatever ZeRO shards
    whole = float(_parameters(work, layout) * layout.itemsize) if layout.compiled else 0.0
    return {"buckets": buckets, "gathered weights": gathered, "step": step, "pass's gradients": whole}


def _parameters(work: Workload, layout: Layout) -> int:
    """Of a tensor rank."""
    return sum(map(sum, parameter_groups(work.model, work.vocab_size, layout.tensor_size)))
