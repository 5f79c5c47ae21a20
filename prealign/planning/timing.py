"""Seconds of a step by part, each the slower of its arithmetic and its memory traffic, and what of communication no
computation hides."""

import math
from dataclasses import dataclass

from prealign.model.shapes import product_shapes, vocabulary_ranks
from prealign.planning.cluster import LATENCY, Cluster
from prealign.planning.layout import Layout, Workload
from prealign.planning.memory import layers_a_gather, takes_triangle, text_tokens, word_tokens
from prealign.planning.rates import OPTIMIZER_BYTES, Rates
from prealign.planning.states import parameter_groups
from prealign.planning.traffic import ELEMENTWISE_COMPILED, LOGIT_BYTES, LOGIT_BYTES_UNFUSED, elementwise_bytes

_LAUNCH = 5e-6
"""Seconds that a CPU takes to start a kernel: assumed."""
_KERNELS = {"forward": 16, "backward": 32}
"""Kernels of a block, run op by op: counted."""
_FUSED = 0.5
"""Share of them that is left under torch.compile, which launches them one by one as well: assumed."""
_HOOKS = 1e-3
"""Seconds of a CPU a block and pass in which DeepSpeed's ZeRO-3 gathers and releases weights: assumed."""
_CONTENTION = 0.15
"""Share by which computation slows while communication runs beside it: NCCL's 16 to 24 of an H100's 132
multiprocessors. Assumed."""
PARTS = (
    "matrix products",
    "attention",
    "elementwise",
    "cross-entropy",
    "alignment loss",
    "communication",
    "optimizer",
    "launches",
)


@dataclass(frozen=True)
class StepTime:
    """``seconds``: by part (`PARTS`), of communication what is exposed. ``hidden``: seconds of it behind the rest."""

    seconds: dict[str, float]
    hidden: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class _Pass:
    """Seconds of one pass on a rank."""

    products: float
    attention: float
    elementwise: float
    head: float
    cross_entropy: float

    @property
    def total(self) -> float:
        return self.products + self.attention + self.elementwise + self.head + self.cross_entropy


def step_time(work: Workload, layout: Layout, cluster: Cluster, rates: Rates) -> StepTime:
    """Mean over steps with and without words."""
    gpus, groups = cluster.gpus, layout.data_size(cluster.gpus)
    passes = work.sequences / (layout.micro_batch_size * groups)
    share = 1.0 / work.words_every if work.words else 0.0
    text, words = text_tokens(work, layout), word_tokens(work, layout, gpus)
    plain = _pass(work, layout, rates, text, 0.0, layout.recompute)
    mixed = _pass(work, layout, rates, text, words, layout.recompute_words) if work.words else plain
    count = {"plain": passes - share, "mixed": share}

    def both(part: str) -> float:
        return count["plain"] * getattr(plain, part) + count["mixed"] * getattr(mixed, part)

    parameters = float(sum(map(sum, parameter_groups(work.model, work.vocab_size, layout.tensor_size))))
    aligning = share * _alignment(work, layout, rates, gpus)
    exposed, hidden = _communication(work, layout, cluster, passes, share, parameters, both("total"), plain, aligning)
    owned = parameters / (layout.state_size(gpus) if layout.zero_stage else 1)
    accumulated = (
        (passes - 1) * parameters * (10 if layout.accumulates_wide(work.sequences, gpus) else 3 * layout.itemsize)
    )
    seconds = {
        "matrix products": both("products") + both("head"),
        "attention": both("attention"),
        "elementwise": both("elementwise") + accumulated / rates.elementwise,
        "cross-entropy": both("cross_entropy"),
        "alignment loss": aligning,
        "communication": exposed,
        "optimizer": OPTIMIZER_BYTES * owned / rates.optimizer,
        "launches": 0.0,
    }
    hooks = _HOOKS if layout.zero_stage == 3 else 0.0
    again = 0.0 if layout.recompute is None else 1.0 / layout.recompute
    host = passes * work.model.layers * (sum(_KERNELS.values()) * _LAUNCH + hooks) * (1 + again / 3)
    seconds["launches"] = max(0.0, host * (_FUSED if layout.compiled else 1.0) - both("total"))
    return StepTime(seconds, hidden)


def _pass(work: Workload, layout: Layout, rates: Rates, text: float, words: float, every: int | None) -> _Pass:
    """Forward and backward of ``text`` and ``words`` tokens, and forward again of what is recomputed."""
    model, size, tokens = work.model, layout.itemsize, text + words
    again = 0.0 if every is None else -(-model.layers // every) / model.layers
    block = sum(
        _product(tokens, outputs, inputs, size, rates) for outputs, inputs in product_shapes(model, layout.tensor_size)
    )
    pairs = text * model.context * model.heads * model.resolved_head_size / layout.tensor_size
    attention = 3.5 * 2 * pairs / rates.attention  # two products of half the square forward, five backward
    forward, backward = elementwise_bytes(model, size, layout.tensor_size)
    if layout.megatron:
        forward, backward = (moved / layout.tensor_size for moved in elementwise_bytes(model, size))
    moved = tokens * ((1 + again) * forward + backward) * (ELEMENTWISE_COMPILED if layout.compiled else 1.0)
    rows = work.vocab_size / vocabulary_ranks(work.vocab_size, layout.tensor_size)
    logit = LOGIT_BYTES if work.fused_cross_entropy else LOGIT_BYTES_UNFUSED
    return _Pass(
        products=model.layers * (3 + again) * block,
        attention=model.layers * attention * (1 + again / 3.5),
        elementwise=model.layers * moved / rates.elementwise,
        head=3 * _product(text, rows, model.hidden_size, size, rates),
        cross_entropy=(logit * text * rows + 20.0 * rows * model.hidden_size) / rates.elementwise,
    )


def _product(tokens: float, outputs: float, inputs: float, itemsize: int, rates: Rates) -> float:
    """Seconds of one product: arithmetic, or reading both operands and writing the result."""
    moved = itemsize * (tokens * (inputs + outputs) + inputs * outputs)
    return max(2.0 * tokens * inputs * outputs / rates.products, moved / rates.copy)


def _alignment(work: Workload, layout: Layout, rates: Rates, gpus: int) -> float:
    """Forward and backward of InfoNCE in the aligned layers, and pooling in all."""
    if not work.words:
        return 0.0
    ranks, size = layout.state_size(gpus), work.model.hidden_size
    products = 6.0 * work.words / ranks * work.words * size * min(1.0, 2 * work.anchors)
    if takes_triangle(work, layout, gpus):
        layer = products / rates.triangle + rates.triangle_layer
    else:
        layer = products / rates.square + rates.square_layer
    pooled = 2 * (word_tokens(work, layout, gpus) + work.words / ranks) * size * layout.itemsize
    return work.aligned_layers * layer + work.word_layers * pooled / rates.copy


def _communication(
    work: Workload,
    layout: Layout,
    cluster: Cluster,
    passes: float,
    share: float,
    parameters: float,
    computing: float,
    plain: _Pass,
    aligning: float,
) -> tuple[float, float]:
    """Seconds of a step that are exposed, and hidden."""
    tensor = _tensor_seconds(work, layout, cluster, passes, share)
    # seconds of communication, and of the computation that there is room beside
    parts = [(tensor, passes * plain.products if layout.megatron else 0.0)]
    ranks, stride = layout.state_size(cluster.gpus), layout.tensor_size
    weights = parameters * layout.itemsize
    gradients = parameters * layout.reduced_itemsize
    backward = 2 / 3 * plain.total
    if layout.zero_stage == 3:
        every = 2 * cluster.gather_seconds(weights, ranks, stride) + cluster.gather_seconds(gradients, ranks, stride)
        first = every / 3 / max(1, work.model.layers)  # the first block's weights nothing can hide
        latency = 3 * work.model.layers * LATENCY * math.log2(ranks)
        parts.append((passes * first, 0.0))
        parts.append((passes * (every - first + latency), computing if layout.overlap else 0.0))
    else:
        reductions = passes if layout.zero_stage == 2 else 1.0
        # what adds up in fp32 our engine exchanges when the passes are over
        late = layout.zero_stage == 1 and not layout.megatron and layout.accumulates_wide(work.sequences, cluster.gpus)
        # and a compiled backward pass hands over no gradient before it ends
        overlaps = layout.overlap and not late and not layout.compiled
        reducing = reductions * cluster.reduce_seconds(gradients, ranks, stride)
        parts.append((reducing, reductions * backward if overlaps else 0.0))
        if layout.zero_stage:
            parts.append((cluster.gather_seconds(weights, ranks, stride), 0.0))
    if work.words:
        together = layers_a_gather(work, layout, cluster.gpus)
        vectors = together * work.words * work.model.hidden_size * layout.itemsize
        gather = cluster.gather_seconds(vectors, ranks, stride)
        # of the first layers, forward and backward; the others travel meanwhile
        parts.append((share * 2 * gather, 0.0))
        parts.append((share * 2 * (work.aligned_layers / together - 1) * gather, aligning))
    hidden = sum(min(seconds, max(0.0, room)) for seconds, room in parts)
    return sum(seconds for seconds, _ in parts) - hidden + _CONTENTION * hidden, hidden


def _tensor_seconds(work: Workload, layout: Layout, cluster: Cluster, passes: float, share: float) -> float:
    """Sums over tensor ranks, two a block and direction and those of `_vocabulary_seconds`, and Ulysses' exchanges: on
    the way of the computation."""
    model, text = work.model, text_tokens(work, layout)
    words = word_tokens(work, layout, cluster.gpus)

    def of(tokens: float, every: int | None) -> float:
        again = 0.0 if every is None else 1.0 / every
        sums = (
            model.layers
            * (4 + 2 * again)
            * cluster.reduce_seconds(tokens * model.hidden_size * layout.itemsize, layout.tensor_size)
        )
        heads = tokens * model.heads * model.resolved_head_size * layout.itemsize / layout.tensor_size
        exchanges = (
            model.layers * (8 + 4 * again) * cluster.gather_seconds(heads, layout.sequence_size, layout.tensor_size)
        )
        return sums + exchanges

    found = (passes - share) * of(text, layout.recompute) + share * of(text + words, layout.recompute_words)
    vocabulary = (passes - share) * _vocabulary_seconds(work, layout, cluster, text, 0.0)
    return found + vocabulary + share * _vocabulary_seconds(work, layout, cluster, text, words)


def _vocabulary_seconds(work: Workload, layout: Layout, cluster: Cluster, text: float, words: float) -> float:
    """What ranks that share the vocabulary say to each other in a pass: vectors of all tokens, and of words in the
    output embedding, the gradient of the LM head's input, and three fp32 numbers a target in two sums."""
    ranks = vocabulary_ranks(work.vocab_size, layout.tensor_size)
    vector = work.model.hidden_size * layout.itemsize
    tokens = [text + words, text] + ([words] if words and not work.model.tied_embeddings else [])
    sums = [count * vector for count in tokens] + [4 * text, 8 * text]
    return sum(cluster.reduce_seconds(size, ranks) for size in sums)
