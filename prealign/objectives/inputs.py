"""Batches -> the flat tensors that the model sees: text rows first, then words, grouped by length so that none is
padded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from prealign.data.loader import MicroBatch
from prealign.data.word_batches import WordBatch
from prealign.kernels import Relations, planned, shard
from prealign.model.gpt import Spans
from prealign.model.layout import Exchange, Group, Layout, document_numbers


@dataclass(frozen=True)
class TextInputs:
    """Rows of text. ``ids``, ``positions``, ``targets``: int64 ``[rows * length]``. ``languages``: the number of each
    row's language, int64 ``[rows]``."""

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    group: Group
    languages: torch.Tensor


@dataclass(frozen=True)
class WordInputs:
    """This rank's words. ``ids``, ``positions``: int64 ``[tokens]``. ``spans``: where word ``w`` lies in ``ids`` (flat,
    words of equal length together). ``relations``: over all ranks' words; None: they are measured, not trained on."""

    ids: torch.Tensor
    positions: torch.Tensor
    groups: tuple[Group, ...]
    spans: Spans
    relations: Relations | None

    def to(self, device: torch.device) -> "WordInputs":
        """A copy on a device, which is not waited for where this one is in pinned memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "WordInputs":
        """A copy in pinned memory."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "WordInputs":
        spans = Spans(change(self.spans.starts), change(self.spans.lengths))
        relations = self.relations.each(change) if self.relations is not None else None
        return WordInputs(change(self.ids), change(self.positions), self.groups, spans, relations)


@dataclass(frozen=True)
class ModelInputs:
    """One forward pass.

    ``step_targets``: positions with a target in the whole step, over all ranks, a scalar tensor; None where no loss is
    wanted. ``passes``: forward passes of the step over all ranks, which the engine averages gradients over.
    """

    text: TextInputs | None
    words: WordInputs | None
    step_targets: torch.Tensor | None = None
    passes: int = 1

    @property
    def layout(self) -> Layout:
        text = (self.text.group,) if self.text else ()
        part = self.text or self.words
        device = part.ids.device if part is not None else torch.device("cpu")
        return Layout(text + (self.words.groups if self.words else ()), device)

    def cat(self, name: str) -> torch.Tensor:
        """``ids`` or ``positions`` of text and words, ``[tokens]``."""
        return torch.cat([getattr(part, name) for part in (self.text, self.words) if part is not None])

    @property
    def spans(self) -> Spans | None:
        """The words among all tokens."""
        if self.words is None:
            return None
        shift = self.text.group.tokens if self.text else 0
        return Spans(self.words.spans.starts + shift, self.words.spans.lengths)


def text_inputs(
    batch: MicroBatch,
    device: torch.device,
    document_ends: list[int] | None,
    exchange: Exchange | None = None,
    language_of_source: Sequence[int] = (0,),
) -> TextInputs:
    """``document_ends``: end-of-document ids at which attention and positions start anew; None: they do not.
    ``exchange``: how the ranks that share the rows attend over them; this rank takes its part of the positions.
    ``language_of_source``: as in `Recipe`; by default there is one."""
    inputs, targets = batch.inputs.to(device, non_blocking=True), batch.targets.to(device, non_blocking=True)
    rows, length = inputs.shape
    documents = None
    positions = torch.arange(length, device=device).expand(rows, length)
    if document_ends is not None:
        documents, positions = document_numbers(inputs, torch.isin(inputs, inputs.new_tensor(document_ends)))
    if exchange is not None:
        length //= exchange.ranks
        first = exchange.rank * length
        inputs, targets, positions = (part[:, first : first + length] for part in (inputs, targets, positions))
    group = Group(rows, length, documents, exchange)
    languages = torch.tensor(language_of_source)[batch.sources].to(device, non_blocking=True)
    return TextInputs(inputs.flatten(), positions.flatten(), targets.flatten(), group, languages)


def word_inputs(
    batch: WordBatch, rank: int, ranks: int, include_self: bool = False, *, plans: bool = False
) -> WordInputs:
    """The share of a word batch that a rank encodes, on the CPU. ``include_self``: as the alignment loss has it.
    ``plans``: work out what the kernels need of the relations (`prealign.kernels.planned`)."""
    begin, end = shard(len(batch), rank, ranks)
    lengths = batch.lengths[begin:end]
    first = torch.cumsum(batch.lengths, 0) - batch.lengths
    by_length = torch.argsort(lengths, stable=True)
    ordered = lengths[by_length]
    place = torch.cumsum(ordered, 0) - ordered
    starts = torch.empty_like(lengths)
    starts[by_length] = place
    inner = torch.arange(int(ordered.sum())) - torch.repeat_interleave(place, ordered)
    ids = batch.tokens[torch.repeat_interleave(first[begin:end][by_length], ordered) + inner]
    sizes, rows = torch.unique_consecutive(ordered, return_counts=True)
    groups = tuple(Group(count, size) for size, count in zip(sizes.tolist(), rows.tolist()))
    relations = batch.relations
    if relations is not None and plans:
        relations = planned(relations, include_self, rank, ranks)
    return WordInputs(ids, inner, groups, Spans(starts, lengths), relations)
