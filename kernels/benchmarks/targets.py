"""What the kernels are meant to reach on a GPU of the Hopper class, and whether they did."""

from dataclasses import dataclass
from typing import Any

MANY_WORDS = 65536
"""Words of the run that shows that a large batch fits one card."""


@dataclass(frozen=True)
class Verdict:
    """``passed``: None where a figure is missing."""

    name: str
    found: str
    passed: bool | None

    def __str__(self) -> str:
        return f"{'----' if self.passed is None else 'pass' if self.passed else 'FAIL'}  {self.name}: {self.found}"


def verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Each target against a report's figures; the targets are for 26 layers, 16,384 words, size 2048, bf16."""
    rows = {(row["kind"], row["name"]): row for row in report["rows"]}

    def of(kind: str, name: str, key: str) -> float | None:
        return rows.get((kind, name), {}).get(key)

    def ratio(over: float | None, under: float | None) -> float | None:
        return None if over is None or under is None else over / max(under, 1e-30)

    def judge(name: str, value: float | None, least: float = 0.0, most: float = float("inf"), unit: str = "") -> None:
        found = "not measured" if value is None else f"{value:.4g}{unit}"
        found_all.append(Verdict(name, found, None if value is None else least <= value <= most))

    found_all: list[Verdict] = []
    ours, key = ("many", "triton"), "forward_backward_s"
    judge("forward + backward at 800 TFLOP/s or more, three products counted", of(*ours, "tflops"), 800)
    single = of("one", "triton", key)
    judge("3 times as fast as inf-cl looped over layers, or more", ratio(of("one", "inf-cl", key), single), 3)
    judge("as fast as chunks of the vendor's products, or faster", ratio(of("many", "chunked", key), of(*ours, key)), 1)
    for way in ("forward", "backward"):
        rate = report["rates"].get(f"pool_{way}_of_copy")
        judge(f"pooling {way} at 0.8 of the copy bandwidth or more", rate, 0.8)
    extra = ratio(of(*ours, "extra_bytes"), 1e9)
    judge("memory beyond z, its gradient and their inputs below 1.2 GB", extra, most=1.2, unit=" GB")
    large = f"{MANY_WORDS:,} words on one card"
    if reason := rows.get(("large", "triton"), {}).get("failed"):
        found_all.append(Verdict(large, reason, False))
    else:
        judge(large, of("large", "triton", key), unit=" s")
    errors = ratio(of(*ours, "gradient_error"), of("many", "eager", "gradient_error"))
    judge("gradient's error at most twice that of eager in the same precision", errors, most=2)
    same = of(*ours, "same_bits")
    judge("the same bits on two runs (1: yes)", None if same is None else float(same), 1)
    return found_all
