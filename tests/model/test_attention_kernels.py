"""Which kernels a machine's attention takes, over all machines; and that calls reach them."""

import itertools
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

from prealign.config.model import ModelConfig
from prealign.errors import UserError
from prealign.model.attention import attend_by_group, attention_function
from prealign.model.attention_kernels import Found, attention_name, choose, kernels_of, takes_flash, torch_choice
from prealign.model.layout import Group, Layout
from tests.model.test_attention import dense, packed

A100, L40S, H100, B200 = (8, 0), (8, 9), (9, 0), (10, 0)
FOUND = [Found(*each) for each in itertools.product([False, True], repeat=3)]
CONFIG = ModelConfig(layers=1, hidden_size=16, heads=2, context=16)


@pytest.mark.parametrize("found", FOUND)
@pytest.mark.parametrize("capability", [None, A100, L40S, H100, B200])
def test_every_machine(capability: tuple[int, int] | None, found: Found) -> None:
    assert choose("sdpa", capability, found) == "sdpa"
    automatic = choose("auto", capability, found)
    if capability is None:
        assert automatic == "sdpa"
    elif capability == H100:
        order = [("flash-attn 3", found.flash3), ("sdpa", found.cudnn), ("flash-attn 2", found.flash2), ("sdpa", True)]
        assert automatic == next(kernels for kernels, there in order if there)
    else:
        assert automatic == ("flash-attn 2" if found.flash2 else "sdpa")
    if not found.flash2 and not (found.flash3 and capability == H100):
        with pytest.raises(UserError, match=r"model\.attention: found 'flash', but flash-attn is not installed"):
            choose("flash", capability, found)
    else:
        newest = found.flash3 and capability == H100
        assert choose("flash", capability, found) == ("flash-attn 3" if newest else "flash-attn 2")


@pytest.mark.parametrize(
    ("dtype", "on_cuda", "size", "taken"),
    [
        (torch.bfloat16, True, 128, True),
        (torch.float32, True, 128, False),
        (torch.bfloat16, False, 128, False),
        (torch.bfloat16, True, 100, False),
        (torch.bfloat16, True, 512, False),
    ],
)
def test_what_flash_kernels_take(dtype: torch.dtype, on_cuda: bool, size: int, taken: bool) -> None:
    assert takes_flash(dtype, on_cuda, size) is taken


def stub(version: int) -> ModuleType:
    """A package as flash-attn's, with its arguments' names, whose results come with other values in version 3."""
    module = ModuleType({2: "flash_attn", 3: "flash_attn_interface"}[version])
    module.__version__ = "2.8.3"  # type: ignore[attr-defined]
    module.calls = []  # type: ignore[attr-defined]

    def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False) -> Any:
        assert causal
        module.calls.append("dense")
        return dense(q, k, v) if version == 2 else (dense(q, k, v), torch.zeros(1))

    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        causal: bool = False,
    ) -> Any:
        assert causal
        assert cu_seqlens_q is cu_seqlens_k
        assert max_seqlen_q == max_seqlen_k
        module.calls.append("packed")
        mixed = packed(q, k, v, cu_seqlens_q, max_seqlen_q)
        return mixed if version == 2 else (mixed, torch.zeros(1))

    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    return module


def machine(capability: tuple[int, int], cudnn: bool, *installed: int) -> Any:
    """As if this were one with such a GPU and packages, whose kernels take tensors of a CPU."""
    modules: dict[str, Any] = {"flash_attn": None, "flash_attn_interface": None}  # None: cannot be imported
    modules |= {module.__name__: module for module in map(stub, installed)}
    chosen = "cuDNN" if cudnn else "flash"
    return (
        mock.patch.multiple(
            "prealign.model.attention_kernels.torch.cuda",
            is_available=lambda: True,
            get_device_capability=lambda: capability,
        ),
        mock.patch("prealign.model.attention_kernels.torch_choice", return_value=chosen),
        mock.patch.dict(sys.modules, modules),
    )


@pytest.mark.parametrize(
    ("capability", "cudnn", "installed", "kernels", "name"),
    [
        (H100, True, (2, 3), "flash-attn 3", "FlashAttention-3"),
        (H100, True, (2,), "sdpa", "scaled_dot_product_attention (cuDNN)"),
        (H100, False, (2,), "flash-attn 2", "flash-attn 2.8.3"),
        (H100, False, (), "sdpa", "scaled_dot_product_attention (flash)"),
        (A100, True, (2, 3), "flash-attn 2", "flash-attn 2.8.3"),
        (A100, False, (), "sdpa", "scaled_dot_product_attention (flash)"),
    ],
)
def test_a_run_names_its_kernels(
    capability: tuple[int, int], cudnn: bool, installed: tuple[int, ...], kernels: str, name: str
) -> None:
    one, two, three = machine(capability, cudnn, *installed)
    with one, two, three:
        assert kernels_of(CONFIG) == kernels
        assert attention_name(CONFIG, torch.bfloat16, torch.device("cuda")) == name
        # what flash kernels do not take goes through torch
        assert attention_name(CONFIG, torch.float32, torch.device("cuda")).startswith("scaled_dot_product_attention (")
        resetting = CONFIG.model_copy(update={"reset_at_document": True})
        documents = attention_name(resetting, torch.bfloat16, torch.device("cuda"))
        assert documents == (name if kernels != "sdpa" else "torch's varlen_attn")


@pytest.mark.parametrize("version", [2, 3])
def test_rows_and_words_reach_flash_attn(version: int) -> None:
    """Through either version's functions, and they give what torch gives."""
    layout = Layout((Group(2, 150), Group(5, 1), Group(3, 2)))
    q, k, v = torch.randn(3, layout.groups[0].tokens + 11, 2, 8)
    one, two, three = machine(H100 if version == 3 else A100, False, version)
    with one, two, three, mock.patch("prealign.model.attention.takes_flash", return_value=True):
        mixed = attention_function(CONFIG)(q, k, v, layout)
        module = sys.modules[{2: "flash_attn", 3: "flash_attn_interface"}[version]]
        assert module.calls == ["dense", "packed"]
    torch.testing.assert_close(mixed, attend_by_group(q, k, v, layout))


def test_the_cpu() -> None:
    with mock.patch("torch.cuda.is_available", return_value=False):
        assert kernels_of(CONFIG) == "sdpa"
        cpu = torch.device("cpu")
        name = attention_name(CONFIG, torch.float32, cpu)
        assert name == f"scaled_dot_product_attention ({torch_choice(CONFIG, torch.float32, cpu)})"
        resetting = CONFIG.model_copy(update={"reset_at_document": True})
        assert attention_name(resetting, torch.float32, cpu) == "scaled_dot_product_attention, with masks"


def test_a_torch_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is for people; a run starts without it."""
    monkeypatch.delattr(torch, "_fused_sdp_choice")
    assert torch_choice(CONFIG, torch.float32, torch.device("cpu")) == "torch's choice"
