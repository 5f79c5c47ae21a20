"""What of a recipe products in fp8 cannot have."""

from prealign.config.model import ModelConfig
from prealign.config.running import ParallelConfig

_MULTIPLE = 16
"""Of which the sizes of a product in fp8 are made."""


def check_fp8_fits(parallel: ParallelConfig, model: ModelConfig, align_every: int | None) -> None:
    """Raise `ValueError` where `parallel.precision` is fp8 and the rest of the recipe, with its
    `pretrain.align_every`, is not for torchao's layers."""
    if parallel.precision != "fp8":
        return
    if parallel.zero_stage == 3 or parallel.tensor_parallel_size > 1:
        raise ValueError(
            f"parallel.precision: found fp8 with zero_stage={parallel.zero_stage} and tensor_parallel_size="
            f"{parallel.tensor_parallel_size}, for which DeepSpeed has layers of its own; expected zero_stage 0 to 2 "
            f"and tensor_parallel_size 1"
        )
    if align_every is not None:
        raise ValueError(
            "parallel.precision: found fp8 with pretrain.align_every, whose words are any number of tokens; expected "
            "one of the two"
        )
    sizes = {
        "model.hidden_size": model.hidden_size,
        "model.heads x head_size": model.heads * model.resolved_head_size,
        "model.ffn_size": model.resolved_ffn_size,
        "model.context of a sequence rank": model.context // parallel.sequence_parallel_size,
    }
    for name, size in sizes.items():
        if size % _MULTIPLE:
            raise ValueError(
                f"parallel.precision: found fp8 and {name}={size}; expected a multiple of {_MULTIPLE}, of which "
                f"products in fp8 are made"
            )
