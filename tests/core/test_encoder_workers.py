"""Two worker processes over gloo give the losses and the gradients of one worker on the joined batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmcsal_core.encoder.workers import Workers
from tests.core.encoder_worker import CASES, run_case


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of the two workers found."""
    folder = tmp_path_factory.mktemp("workers")
    commands = [[sys.executable, "-m", "tests.core.encoder_worker", str(folder), str(rank)] for rank in (0, 1)]
    workers = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for command in commands]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    return [load_file(folder / f"{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_joined_batch(case: str, of_two: list[dict[str, Tensor]]) -> None:
    torch.set_num_threads(1)
    alone = run_case(case, Workers())
    for found in of_two:
        assert {name for name in found if name.startswith(f"{case}.")} == set(alone)
        for name, value in alone.items():
            assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name
    gradients = [name for name in alone if ".gradient." in name]
    assert len(gradients) == 8 + {"all_terms": 1, "last_block": 12}.get(case, 0)
    assert all(alone[name].abs().max() > 1e-4 for name in gradients if not name.endswith("bias"))
