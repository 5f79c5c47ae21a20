"""Suites -> runs: what must be trained and measured, each once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prealign.config import Recipe, load_recipe
from prealign.errors import UserError
from prealign.files import digest
from prealign.suites.suite import Row, Scale, Start, Suite, Variant
from prealign.training.plan import align_plan, budgets
from prealign.training.run import comparable

_NO_MATTER = ("name", "data.dir")
_NEW = {
    "align.coverage": "null",
    "align.global_batch_size": "null",
    "data.tokenizer.end_of_document": "null",
    "data.tokenizer.extension": "null",
    "model.attention_bias": "null",
    "model.bias": "true",
    "model.ffn_size": "null",
    "model.head_size": "null",
    "model.kv_heads": "null",
    "model.mlp": '"gelu"',
    "model.new_rows": '"pieces"',
    "model.norm": '"layernorm"',
    "model.norm_eps": "1e-05",
    "model.positions": '"learned"',
    "model.qk_norm": "false",
    "model.rotary_base": "10000.0",
    "model.rotary_scaling": "null",
    "model.rotary_scaling.attention_factor": "null",
    "model.rotary_scaling.beta_fast": "32.0",
    "model.rotary_scaling.beta_slow": "1.0",
    "model.rotary_scaling.truncate": "true",
    "pretrain.align_every": "null",
    "pretrain.align_weight": "null",
    "pretrain.align_words_per_step": "null",
}
"""Keys that recipes did not have at first, with the value that means the same: runs keep their names."""
_NOT_ALIGNING = ("stages", "codeswitch.", "pretrain.")
"""Keys of a recipe that the align stage does not read."""
_DIGITS = 8
_LATER = 1000
"""Added to the seed of a run that starts from another one's weights, so that it reads text in an order of its own."""


@dataclass(frozen=True)
class Training:
    """One call of ``launchers/pretrain.py``: an align stage, or a pretrain stage."""

    name: str
    config: str
    changes: tuple[str, ...]
    """What makes the recipe out of ``config`` beside names and folders."""
    recipe: Recipe
    """As it is trained: with its folders, and one stage."""
    after: "Training | None" = None
    """The align stage that it starts from."""
    start: "Training | None" = None
    """The run whose exported weights the first stage starts from."""

    @property
    def chain(self) -> list["Training"]:
        """What must be trained for it, in order, itself included."""
        before = self.after or self.start
        return [*(before.chain if before is not None else []), self]

    @property
    def export(self) -> Path:
        """Where its weights are exported to for runs that start from them."""
        return self.recipe.folder / "export"

    @property
    def overrides(self) -> list[str]:
        """All overrides of ``config`` that give the recipe."""
        recipe = self.recipe
        changes = [change for change in self.changes if not change.startswith("stages=")]
        overrides = [*changes, f"stages=[{','.join(recipe.stages)}]", f"name={self.name}"]
        overrides += [f"data.dir={recipe.data.dir}", f"run_dir={recipe.folder}"]
        if self.start is not None:
            overrides.append(f"model.init={recipe.model.init}")
        if self.after is not None:
            overrides.append(f"pretrain.init_from={self.after.recipe.folder}")
        return overrides

    @property
    def tokens(self) -> int:
        """Tokens that the stage trains on, without word batches, whose number the prepared table decides."""
        if self.recipe.aligns:
            return sum(align_plan(self.recipe).text_tokens(self.recipe).values())
        step = self.recipe.batch.global_batch_size * self.recipe.model.context
        whole = sum(tokens or 0 for tokens in budgets(self.recipe)) // step * step
        return whole - (self.after.tokens if self.after is not None else 0)


@dataclass(frozen=True)
class Measurement:
    """A finished run with what is measured of it; a result file belongs to each."""

    name: str
    training: Training
    variant: str
    seed: int
    overrides: tuple[str, ...]
    """Changes of the recipe for the measurement alone."""
    measures: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on beside the run: measured again when it changes."""
        watched = {"every", "probe_words"}
        evaluation = self.training.recipe.evaluation.model_dump(mode="json", exclude=watched)
        return {"evaluation": evaluation, "overrides": list(self.overrides)}


@dataclass(frozen=True)
class Plan:
    """What some suites need at a scale."""

    scale: str
    folder: Path
    """``RESULTS/SCALE``."""
    suites: list[Suite]
    measurements: list[Measurement]
    """Each once: all suites with their first seed, then with their second, so that what an interrupted call leaves is
    complete with fewer seeds."""
    cells: dict[tuple[str, str, int], str]
    """(suite, row, seed) -> name of the measurement."""
    overrides: tuple[str, ...] = ()
    """Changes of every base recipe."""

    @property
    def trainings(self) -> list[Training]:
        """All trainings in an order in which they can run."""
        found: dict[str, Training] = {}
        for measurement in self.measurements:
            for training in measurement.training.chain:
                found.setdefault(training.name, training)
        return list(found.values())

    def of(self, suite: Suite, row: Row) -> list[Measurement]:
        """The measurements of a row, by seed."""
        names = [name for (of, label, _), name in self.cells.items() if (of, label) == (suite.name, row.label)]
        return [measurement for measurement in self.measurements if measurement.name in names]


def expand(
    suites: list[Suite], variants: dict[str, Variant], scale: Scale, results: Path, overrides: Sequence[str] = ()
) -> Plan:
    """Expand suites at a scale; ``overrides`` change every base recipe. Raises `UserError`."""
    folder = results / scale
    found: dict[str, Measurement] = {}
    cells: dict[tuple[str, str, int], str] = {}
    for _, suite, seed in sorted(_seeds(suites, scale), key=lambda turn: turn[0]):
        at = suite.scales[scale]
        for row in suite.rows_at(scale):
            turn = _Turn(variants, scale, seed, [*at.overrides, *overrides], overrides, folder)
            config, first = row.recipe or at.recipe, variants[row.variant].start
            start = None if first is None else turn.start(first, config, row.overrides)
            training = turn.training(row.variant, config, row.overrides, start)
            name = training.name
            if row.measure_with:
                name += f"-{digest(row.measure_with)[:_DIGITS]}"
            measures: list[str] = [*suite.measures]
            if name in found:
                measures = [*dict.fromkeys([*found[name].measures, *measures])]
            found[name] = Measurement(
                name, training, row.variant, seed, tuple(row.measure_with), tuple(sorted(measures))
            )
            cells[suite.name, row.label, seed] = name
    return Plan(scale, folder, suites, list(found.values()), cells, tuple(overrides))


def _seeds(suites: list[Suite], scale: str) -> Iterator[tuple[int, Suite, int]]:
    """Place of the seed among the suite's, suite and seed, so that all suites can have their first seed first."""
    for suite in suites:
        at = suite.scales.get(scale)  # type: ignore[call-overload]
        if at is None:
            raise UserError(f"--scale {scale}: {suite.name} has the scales {list(suite.scales)}; choose one of them")
        for place, seed in enumerate(at.seeds):
            yield place, suite, seed


@dataclass(frozen=True)
class _Turn:
    """What the trainings of one row and seed have in common."""

    variants: dict[str, Variant]
    scale: Scale
    seed: int
    overrides: Sequence[str]
    """Changes of every base recipe, the suite's and the user's."""
    shared: Sequence[str]
    """The user's."""
    folder: Path

    def training(self, variant: str, config: str, own: Sequence[str], start: Training | None) -> Training:
        """A run of a variant with changes of its ``own``, from the weights of ``start``."""
        changes = [*self.overrides, *self._of(variant), *own]
        changes.append(f"seed={self.seed if start is None else self.seed + _LATER}")
        return _training(config, variant, self.seed, changes, self.shared, self.folder, start)

    def start(self, start: Start, config: str, own: Sequence[str]) -> Training:
        """The run that one of base recipe ``config``, with changes of its ``own``, starts from. With a base recipe of
        its own it has data of its own, and maybe fewer languages; what is said of these is not for it."""
        if start.recipe is None:
            return self.training(start.variant, config, own, None)
        known = load_recipe(start.recipe, self._of(start.variant)).languages
        kept = [
            [each for each in changes if not each.startswith("data.") and _language_of(each) in (None, *known)]
            for changes in (self.overrides, self.shared)
        ]
        turn = replace(self, overrides=kept[0], shared=kept[1])
        return turn.training(start.variant, start.recipe, [], None)

    def _of(self, variant: str) -> list[str]:
        chosen = self.variants[variant]
        if chosen.at and self.scale not in chosen.at and variant in self._amounts:
            raise UserError(
                f"--scale {self.scale}: variant '{variant}' has amounts of text for the scales {list(chosen.at)} "
                f"alone; add them to it in variants.yaml"
            )
        return [*chosen.overrides, *chosen.at.get(self.scale, [])]

    @property
    def _amounts(self) -> set[str]:
        """Variants that start from another's weights, or are started from: their text is a part of the whole."""
        starts = {name: variant.start for name, variant in self.variants.items() if variant.start is not None}
        return {*starts, *(start.variant for start in starts.values())}


def _language_of(change: str) -> str | None:
    parts = change.partition("=")[0].split(".")
    return parts[1] if parts[0] == "languages" and len(parts) > 1 else None


def _training(
    config: str,
    variant: str,
    seed: int,
    changes: list[str],
    shared: Sequence[str],
    folder: Path,
    start: Training | None,
) -> Training:
    first = [] if start is None else [f"model.init=hf:{start.export}"]
    recipe = load_recipe(config, [*changes, *first])
    identity = {
        key: value
        for key, value in comparable(recipe).items()
        if key not in _NO_MATTER
        and _NEW.get(key) != value
        and (not key.endswith(".text.normalize") or value != '"nfc"')
        and (not key.endswith(".text.store") or value != "[]")
    }
    if start is not None:
        identity["model.init"] = start.name
    data = _data_dir(load_recipe(config, shared), recipe)

    def named(name: str, stage: str, after: Training | None) -> Training:
        changed = recipe.model_dump(mode="json")
        changed |= {"name": name, "stages": [stage], "run_dir": str(folder / "runs" / name)}
        changed["data"]["dir"] = str(data)
        if after is not None:
            changed["pretrain"]["init_from"] = str(after.recipe.folder)
        return Training(name, config, tuple(changes), Recipe.model_validate(changed), after, start)

    after = None
    if recipe.aligns:
        aligning = {key: value for key, value in identity.items() if not key.startswith(_NOT_ALIGNING)}
        if recipe.lexicon.permute == "both":
            aligning["lexicon.permute"] = '"align"'
        after = named(f"align-s{seed}-{digest(aligning)[:_DIGITS]}", "align", None)
    return named(f"{variant}-s{seed}-{digest(identity)[:_DIGITS]}", "pretrain", after)


def _data_dir(base: Recipe, recipe: Recipe) -> Path:
    """Where the data of a recipe is prepared: in its base recipe's folder where that has the same data, else in one
    beside it. A recipe without facts reads the data of one that has them."""
    same = _text(base) == _text(recipe) and (recipe.facts is None or _facts(base) == _facts(recipe))
    if same:
        return base.data.dir
    suffix = digest([_text(recipe), _facts(recipe)])[:_DIGITS]
    return base.data.dir.with_name(f"{base.data.dir.name}-{suffix}")


def _text(recipe: Recipe) -> dict[str, Any]:
    """What `launchers/prepare.py` reads of a recipe, without facts."""
    share = {"tokens", "weight", "active"}
    languages = recipe.model_dump(mode="json", include={"languages"})["languages"]
    for language in languages.values():
        for entry in [language, *language["sources"].values()]:
            for key in share:
                del entry[key]
            if entry["text"] is not None and not entry["text"]["store"]:
                del entry["text"]["store"]  # a key that recipes did not have at first
    data = recipe.data.model_dump(mode="json", exclude={"dir"})
    lexicon = recipe.lexicon.model_dump(mode="json", exclude={"permute", "top_fraction"})
    return {"source": recipe.source_language, "languages": languages, "data": data, "lexicon": lexicon}


def _facts(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.facts is None:
        return None
    settings = recipe.facts.model_dump(mode="json", exclude={"period", "first_step"})
    return settings | {"learned_in": recipe.facts_languages, "context": recipe.model.context}
