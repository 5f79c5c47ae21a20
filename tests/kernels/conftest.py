"""Where kernels are tested."""

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """Where kernels are tested: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
