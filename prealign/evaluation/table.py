"""A step's results as one table of lines: measurement, of what, value, interval or note."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

Row = tuple[str, str, str, str]


def rows(metrics: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """Rows of the results of `prealign.evaluation.measuring.measure`; each is (measurement, of, value, note)."""
    for name, result in metrics.items():
        if "skipped" in result:
            yield name, "", "-", f"skipped: {result['skipped']}"
        else:
            yield from _ROWS[name](result)


def _language_model(result: dict[str, Any]) -> Iterator[Row]:
    for language, of in result.items():
        if "skipped" in of:
            yield "perplexity", language, "-", f"skipped: {of['skipped']}"
            continue
        yield "perplexity", language, f"{of['perplexity']:.2f}", f"{of['tokens']:,} tokens"
        yield "bits per byte", language, f"{of['bits_per_byte']:.4f}", ""
        if "skipped" in of["words"]:
            yield "seen, unseen words", language, "-", f"skipped: {of['words']['skipped']}"
            continue
        for kind, words in of["words"].items():
            value = f"{words['perplexity']:.2f}" if words["perplexity"] is not None else "-"
            yield f"perplexity, {kind} words", language, value, f"{words['words']:,} words"


def _alignment(result: dict[str, Any]) -> Iterator[Row]:
    for language, sets in result.items():
        for name, of in sets.items():
            label = {"table": "words of the table", "heldout": "held-out words"}[name]
            if "skipped" in of:
                yield "aligned cosine", f"{language}, {label}", "-", f"skipped: {of['skipped']}"
                continue
            margin = f"{_mean(of['margin']):+.3f} over random pairs, {_mean(of['centred']):.3f} centred"
            yield "aligned cosine", f"{language}, {label}", f"{_mean(of['cosine']):.3f}", f"mean of layers; {margin}"
            for direction, found in of["retrieval"].items():
                arrow = "->" if direction == "to_target" else "<-"
                best = max(range(len(found["csls"])), key=found["csls"].__getitem__)
                low, high = found["csls_interval"]
                yield (
                    f"retrieval {arrow}",
                    f"{language}, {label}",
                    f"{100 * found['csls'][best]:.1f} %",
                    f"CSLS, layer {best}, 95 % interval {100 * low:.1f} to {100 * high:.1f}; P@1 by cosine "
                    f"{100 * found['p_at_1'][best]:.1f} %; chance {100 * found['chance']:.2g} % of "
                    f"{found['candidates']:,}",
                )


def _mexa(result: dict[str, Any]) -> Iterator[Row]:
    for language, of in result.items():
        if "skipped" in of:
            yield "MEXA", language, "-", f"skipped: {of['skipped']}"
        else:
            note = f"mean of layers; maximum {of['max']:.3f}; {of['sentences']} sentences"
            yield "MEXA", language, f"{of['mean']:.3f}", note


def _facts(result: dict[str, Any]) -> Iterator[Row]:
    over = result["over_periods"]
    if "skipped" in over:
        yield "facts, ends of periods", "", "-", f"skipped: {over['skipped']}"
    for panel, of in over.get("panels", {}).items():
        for name, found in of.items():
            if name == "pooled" and len(of) == 2:
                continue
            note = f"95 % interval over {found['facts']} facts {_percent(found['interval'])}; chance 25 %"
            yield f"facts, {name}", panel, f"{100 * found['accuracy']:.1f} %", note
    now = result["now"]
    for panel, of in now["panels"].items():
        for name, found in of.items():
            note = f"this model on period {now['period']}, which ended at step {now['ended_at']}"
            value = f"{100 * found['accuracy']:.1f} %"
            yield f"facts now, {name}", panel, value, f"{note}; 95 % interval {_percent(found['interval'])}"


def _leakage(result: dict[str, Any]) -> Iterator[Row]:
    for language, of in result.items():
        if language in ("examples", "decoding", "prompts") or (language == "any" and len(result) == 5):
            continue
        low, high = of["interval"]
        note = f"95 % interval {100 * low:.2f} to {100 * high:.2f}; {of['samples']:,} samples"
        by = f"; by {of['found_by']}" if "found_by" in of else ""
        yield "leakage", language, f"{100 * of['share']:.2f} %", note + by
        if "content" in of:  # `any` has none
            content = of["content"]
            note = f"± {100 * content['standard_error']:.3f} over samples; {content['of']:,} {content['unit']}"
            yield f"leaked {content['unit']}", language, f"{100 * content['share']:.3f} %", note


def _transfer(name: str, result: dict[str, Any]) -> Iterator[Row]:
    for language, of in result["languages"].items():
        deviation = f" ± {100 * of['deviation']:.1f}" if of["deviation"] is not None else ""
        note = f"{len(result['runs'])} seeds, epoch chosen on source dev; {of['pairs']:,} pairs; "
        note += f"chance {100 * result['chance']:.1f} %"
        yield name, language, f"{100 * of['accuracy']:.1f}{deviation} %", note


def _percent(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


_ROWS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "lm": _language_model,
    "alignment": _alignment,
    "mexa": _mexa,
    "facts": _facts,
    "leakage": _leakage,
    "nli": partial(_transfer, "inference"),
    "pawsx": partial(_transfer, "paraphrase"),
}
