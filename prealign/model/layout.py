"""How a flat run of tokens splits into sequences.

Hidden states are ``[tokens, D]``: the text rows of a micro-batch, then the words of a word batch. Every matrix product
sees all of them at once; only attention needs to know which token belongs to which sequence.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Group:
    """``rows`` sequences of ``length`` tokens each, one after another; attention is causal within a row.

    ``documents``: int64 ``[rows, length]``, non-decreasing numbers; attention stays within equal numbers. None: one
    document a row. Short sequences are padded on the right, where a causal mask keeps pads out of real tokens.
    """

    rows: int
    length: int
    documents: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Layout:
    """The groups of a flat run of tokens, in order."""

    groups: tuple[Group, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens per group."""
        return [group.tokens for group in self.groups]


def document_numbers(inputs: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split rows at documents: ``inputs`` ``[rows, length]``, ``ends`` bool of that shape, true at end-of-document
    tokens.

    Returns ``(documents, positions)``, int64 ``[rows, length]``: the number of the document within the row, and the
    position within the document. The end-of-document token belongs to the document that it ends.
    """
    starts = torch.zeros_like(inputs)
    starts[:, 1:] = ends[:, :-1].long()
    documents = starts.cumsum(dim=1)
    place = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    first = torch.where(starts.bool(), place, 0).cummax(dim=1).values
    return documents, place - first
