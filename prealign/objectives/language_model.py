"""The LM loss: mean cross-entropy over all targets of a step."""

import torch

from prealign.data.switching import IGNORED
from prealign.objectives.inputs import ModelInputs, TextInputs
from prealign.objectives.terms import Features, Sums, Term


class LanguageModel:
    """``L_LM = sum of nats / targets of the step``. It logs ``lm_loss``, and ``lm_loss/LANGUAGE`` for each."""

    def __init__(self, languages: list[str]) -> None:
        self._languages = languages

    def __call__(self, inputs: ModelInputs, features: Features) -> Term | None:
        """See `Objective`."""
        if inputs.text is None or inputs.step_targets is None or features.nats is None:
            return None
        assert features.token_losses is not None
        return Term(features.nats / inputs.step_targets, self._sums(inputs.text, features.token_losses))

    def _sums(self, text: TextInputs, token_losses: torch.Tensor) -> Sums:
        """By language as a product with indicators ``[rows, languages]``, whose shapes are those of every step."""
        shape = (text.group.rows, text.group.length)
        numbers = torch.arange(len(self._languages), device=text.languages.device)
        belongs = (text.languages[:, None] == numbers).double()
        nats = token_losses.detach().view(shape).sum(dim=1, dtype=torch.float64) @ belongs
        targets = (text.targets != IGNORED).view(shape).sum(dim=1).double() @ belongs
        sums: Sums = {"lm_loss": (nats.sum(), targets.sum())}
        for number, name in enumerate(self._languages):
            sums[f"lm_loss/{name}"] = (nats[number], targets[number])
        return sums
