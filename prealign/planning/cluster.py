"""Cards in nodes, and how long what they say to each other takes."""

import math
from dataclasses import dataclass

from prealign.errors import UserError
from prealign.planning.devices import DataSheet, data_sheet

LINK_EFFICIENCY = 0.8
"""Share of a link's rate that collectives reach: assumed, not set on a row. Large messages; small ones pay latency."""

LATENCY = 20e-6
"""Seconds that a collective takes however small it is, times the logarithm of the ranks: assumed."""


@dataclass(frozen=True)
class Cluster:
    """``gpus`` cards, ``per_node`` in a node; rates of links in bytes/s, one direction, a card."""

    device: DataSheet
    gpus: int
    per_node: int
    link: float
    network: float

    @classmethod
    def of(
        cls,
        device: str,
        gpus: int,
        per_node: int | None = None,
        link: float | None = None,
        network: float | None = None,
    ) -> "Cluster":
        """Defaults are the device's, eight cards a node. Raises `UserError` for cards that do not fill their nodes."""
        sheet = data_sheet(device)
        size = min(gpus, 8) if per_node is None else min(gpus, per_node)
        if gpus % size:
            raise UserError(
                f"--gpus: found {gpus} with {size} a node; expected a multiple of --gpus-per-node, or fewer than it"
            )
        return cls(sheet, gpus, size, link or sheet.link, network or sheet.network)

    def rate(self, ranks: int, stride: int = 1) -> float:
        """Bytes/s that a ring of ``ranks`` reaches, each ``stride`` ranks from the next: the node's links where all are
        in one node, else the network, of which the cards of a node use their own each."""
        if ranks * stride <= self.per_node:
            return LINK_EFFICIENCY * self.link
        # as many rings as a node has cards in one of them pass through the node's network at a time
        inside = max(1, self.per_node // stride)
        return LINK_EFFICIENCY * min(self.link, inside * self.network)

    def gather_seconds(self, size: float, ranks: int, stride: int = 1) -> float:
        """All-gather, or reduce-scatter, of ``size`` bytes in all: ``(p - 1) / p`` of them pass every rank."""
        if ranks == 1:
            return 0.0
        return size * (ranks - 1) / ranks / self.rate(ranks, stride) + LATENCY * math.log2(ranks)

    def reduce_seconds(self, size: float, ranks: int, stride: int = 1) -> float:
        """All-reduce: a reduce-scatter and an all-gather."""
        return 2 * self.gather_seconds(size, ranks, stride)
