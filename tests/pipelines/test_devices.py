"""Where workers compute, and how several of one training talk."""

import pytest
import torch

from pipelines.devices import choose_device
from pipelines.train_group import choose_backend


def test_a_worker_without_a_gpu_computes_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_device(0.0) == "cpu"
    assert caplog.messages == []


def test_a_gpu_that_torch_does_not_find_is_said(caplog: pytest.LogCaptureFixture) -> None:
    found = choose_device(0.5)
    if torch.cuda.is_available():
        assert (found, caplog.messages) == ("cuda", [])
    else:
        assert found == "cpu"
        assert [message.partition(",")[0] for message in caplog.messages] == [
            "a worker with 0.5 GPUs must find a CUDA device"
        ]


def test_workers_talk_by_nccl_only_where_none_shares_a_gpu() -> None:
    assert [choose_backend(num_gpus) for num_gpus in (0.0, 0.5, 1.0, 2.0)] == ["gloo", "gloo", "nccl", "nccl"]
