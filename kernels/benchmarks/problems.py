"""What every candidate is given: unit vectors, and who is whose translation."""

from dataclasses import dataclass

import torch

from prealign.kernels import Relations, csr, planned


@dataclass(frozen=True)
class Problem:
    """``z``: ``[layers, W, D]``, unit rows. ``partner``: int64 ``[W]``, the one positive of each word, where there is
    but one. ``include_self``: the anchor itself stands in its denominator."""

    z: torch.Tensor
    relations: Relations
    partner: torch.Tensor
    tau: float
    include_self: bool

    @property
    def flop(self) -> float:
        """Three products of every word with every word: scores, scores again, gradient."""
        layers, words, size = self.z.shape
        return 3 * 2.0 * layers * words * words * size


def many_positives(layers: int, words: int, size: int, tau: float, dtype: torch.dtype, device: torch.device) -> Problem:
    """Groups of one source word and four translations, which ignore each other: English and four languages."""
    number = torch.arange(words)
    source = number // 5 * 5
    translation = number[number != source]
    positives = csr(torch.cat((translation, source[translation])), torch.cat((source[translation], translation)), words)
    others = (translation[:, None] // 5 * 5 + torch.arange(1, 5)).clamp(max=words - 1)
    left, right = translation[:, None].expand_as(others).flatten(), others.flatten()
    siblings = (left != right) & (left // 5 == right // 5) & (right % 5 != 0)
    weight = (positives[0].diff() > 0).double()
    relations = Relations(positives, csr(left[siblings], right[siblings], words), weight / weight.sum())
    relations = planned(relations, False).to(device)  # on the CPU, once, as in training
    return Problem(_vectors(layers, words, size, dtype, device), relations, number, tau, False)


def one_positive(layers: int, words: int, size: int, tau: float, dtype: torch.dtype, device: torch.device) -> Problem:
    """Pairs; the anchor stays in its denominator, as cross-entropy kernels have it. ``words`` is even."""
    partner = torch.arange(words) ^ 1
    nothing = torch.empty(0, dtype=torch.int64)
    weight = torch.full((words,), 1 / words, dtype=torch.float64)
    relations = Relations(csr(torch.arange(words), partner, words), csr(nothing, nothing, words), weight)
    z = _vectors(layers, words, size, dtype, device)
    return Problem(z, planned(relations, True).to(device), partner.to(device), tau, True)


def _vectors(layers: int, words: int, size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(1)
    z = torch.empty((layers, words, size), dtype=dtype, device=device)
    for layer in z:  # the wide copy of one layer at a time
        noise = torch.randn((words, size), generator=generator, device=device)
        layer.copy_(torch.nn.functional.normalize(noise, dim=1))
    return z
