"""Learning rate by step."""

import math
from collections.abc import Callable

from prealign.config.training import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """Linear warmup over ``schedule.warmup`` of the steps, then a cosine that ends at ``min_learning_rate`` with the
    last step. Where the warmup leaves fewer than two steps there is no cosine, and the last step has the peak.

    The returned function maps a step, counted from 0, to its rate.
    """
    warmup = round(schedule.warmup * steps)
    peak, floor = schedule.learning_rate, schedule.min_learning_rate

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * progress))

    return rate
