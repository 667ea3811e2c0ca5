"""Where workers compute, and how several of one training talk."""

import subprocess
import sys

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


COUNT_FAULTS = """
import ctypes, resource
from concurrent.futures import ThreadPoolExecutor
from pipelines.devices import keep_freed_memory

libc, num_bytes = ctypes.CDLL(None), 48 * 2**20
libc.malloc.restype = ctypes.c_void_p

def use_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(ctypes.c_size_t(num_bytes)) for _ in range(3)]
    for block in blocks:
        libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(num_bytes))
    for block in blocks:
        libc.free(ctypes.c_void_p(block))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

def use_twice():
    {prepare}
    use_memory()
    use_memory()

{call}
"""
"""Takes memory, writes to it and frees it, twice; prints for each how many pages the kernel had to clear."""

HERE, IN_A_THREAD = "use_twice()", "ThreadPoolExecutor(1).submit(use_twice).result()"  # an actor works in a thread


@pytest.mark.parametrize("call", [HERE, IN_A_THREAD], ids=["here", "in a thread"])
@pytest.mark.parametrize(("prepare", "least", "most"), [("pass", 0.9, 1.1), ("keep_freed_memory()", 0.0, 0.1)])
def test_memory_that_was_freed_is_there_for_what_comes_next(prepare: str, least: float, most: float, call: str) -> None:
    command = [sys.executable, "-c", COUNT_FAULTS.format(prepare=prepare, call=call)]
    first, second = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert least <= second / first <= most
