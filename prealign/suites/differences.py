"""What differs from the paper's main setting: a table of the base recipe, and how its alignment loss differs."""

from collections.abc import Iterator

from prealign.config import Recipe
from prealign.reports.pages import Table


def differences(recipe: Recipe) -> Table:
    """The base recipe beside the paper's main setting."""
    model, batch = recipe.model, recipe.batch
    source = recipe.languages[recipe.source_language].tokens or 0
    targets = ", ".join(f"{recipe.languages[name].tokens or 0:,}" for name in recipe.targets)
    facts, rates = recipe.facts, recipe.pretrain
    learned = "none"
    if facts is not None:
        frequencies = ", ".join(map(str, facts.frequencies))
        learned = f"{facts.periods} periods of {facts.period} steps, f = {frequencies}, learned in "
        learned += ", ".join(recipe.facts_languages)
    pairs = "not measured: no pairs in the recipe"
    if recipe.evaluation.nli is not None:
        generated = recipe.evaluation.nli.train.generated is not None
        pairs = "generated pairs, not XNLI" if generated else "fine-tuned on English"
    shape = f"{model.layers} layers x {model.hidden_size}, context {model.context}"
    return [
        ["", "paper", "here: the base recipe"],
        ["model (150M)", "12 layers x 1024, context 1024", shape],
        ["tokens of the source language", "10,000,000,000", f"{source:,}"],
        ["tokens of each target", "100,000,000", targets],
        ["vocabulary", "not stated", f"{recipe.data.tokenizer.vocab_size:,}"],
        ["tokens a step, pretraining", "about 1,000,000", f"{batch.global_batch_size * model.context:,}"],
        ["rate, pretraining", "3e-4 to 3e-5", f"{rates.learning_rate:g} to {rates.min_learning_rate:g}"],
        ["warmup, pretraining", "not stated", f"{100 * rates.warmup:g} % of the steps"],
        ["code-switching", "5 %", f"{100 * recipe.codeswitch.ratio:g} % of the words with a translation"],
        *_aligning(recipe),
        ["translations", "GPT-4", "one to one for a clone, else dictionaries"],
        ["facts", "periods of 250 steps", learned],
        ["transfer (XNLI)", "fine-tuned on English", pairs],
    ]


def _aligning(recipe: Recipe) -> Iterator[list[str]]:
    """Every setting of the align stage."""
    align = recipe.align
    tokens = recipe.batch_of("align").global_batch_size * recipe.model.context
    words = f"as many a step as draw each word of the table {align.coverage} times"
    if align.words_per_step is not None:
        words = f"{align.words_per_step:,} a step"
    drawn = {0.0: "uniformly", 1.0: "by their count"}.get(
        align.sampling_power, f"by their count to the power {align.sampling_power:g}"
    )
    layers = "all"
    if align.layers != "all":
        layers = (
            f"{', '.join(map(str, align.layers))} of 0 to {recipe.last_layer} (0 and {recipe.last_layer}: embeddings)"
        )
    anchors = "words of all languages" if align.anchors == "all" else "source words"
    if align.anchor_fraction < 1:
        anchors += f", {100 * align.anchor_fraction:g} % of them a step"
    kept = recipe.pretrain.align_every
    held = recipe.lexicon.heldout_fraction
    yield [
        "aligning: text",
        "5 %, about 1,000,000 tokens a step",
        f"{100 * align.fraction:g} %, {tokens:,} tokens a step",
    ]
    yield ["aligning: layers in the loss", "all", layers]
    yield ["aligning: weight of the loss", "1", f"{align.weight:g}, {align.layer_reduce} over layers"]
    yield ["aligning: temperature tau", "not stated", f"{align.tau:g}"]
    yield ["aligning: rate", "not stated", f"{align.learning_rate:g} to {align.min_learning_rate:g}"]
    yield ["aligning: warmup", "not stated", f"{100 * align.warmup:g} % of the steps"]
    yield ["aligning: words, translations included", "not stated", words]
    yield ["aligning: how source words are drawn", "not stated", drawn]
    yield ["aligning: translations of a word and language", "all", f"at most {align.max_translations}"]
    yield ["aligning: anchors", "source words", anchors]
    yield ["words held out of the table", "not stated", f"{100 * held:g} %" if held else "none"]
    yield ["word batches in pretraining", "none", "none" if kept is None else f"in one of {kept} steps"]


def loss_notes(recipe: Recipe) -> list[str]:
    """Where the alignment loss differs from the paper's Equations 1 to 3."""
    align = recipe.align
    reduced = "the sum over layers" if align.layer_reduce == "sum" else "the mean over layers"
    notes = [
        "Equation 2 sums over all pairs of a word and a translation. Here a layer's loss is the mean over anchors of "
        f"the mean over an anchor's translations, then comes {reduced}. So weight and rate do not carry over from a "
        "sum over pairs, which grows with the batch. There is no option for that sum."
    ]
    if align.anchors == "all":
        notes.append(
            "Equation 2 has source words as anchors. Here a translation is an anchor as well, with its source word as "
            "the positive (align.anchors)."
        )
    if not align.include_self:
        notes.append(
            "The denominator of Equation 2 is over all words of the batch. Here the anchor itself is not among them "
            "(align.include_self)."
        )
    if align.anchors == "all":
        others = {
            "ignore": "leave each other out",
            "positive": "are each other's positives",
            "negative": "are each other's negatives",
        }[align.siblings]
        notes.append(
            f"As anchors two translations of one word {others} (align.siblings), a case that Equation 2 does not have."
        )
    if align.final_norm:
        notes.append(
            "The last block's word vectors are taken after the final norm (align.final_norm), of which Equation 1 says "
            "nothing."
        )
    if recipe.lexicon.heldout_fraction == 0:
        notes.append("No words are held out of the table (lexicon.heldout_fraction), so alignment is of words it has.")
    return notes
