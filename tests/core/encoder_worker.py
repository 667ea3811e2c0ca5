"""One of two training workers, as a process of its own: `python -m tests.core.encoder_worker FOLDER RANK`.

Runs one epoch of one batch for each case, so that the gradients of the step are still there, and saves them.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from mmcsal_core.backbones.efficientnet_lite import EfficientNetLite
from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.encoder_fit import EncoderFit
from mmcsal_core.encoder.workers import Workers

NUM_PAIRS = 45
"""Odd, so that the two workers' slices differ in size."""
WHOLE = {"dim": 8, "hidden_width": 16, "epochs": 1, "batch_size": 64, "held_back_fraction": 0.0, "warmup_fraction": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "info_nce": {"lambda_proto": 0.0},
    "prototypes": {"prototype_target": "both", "num_prototypes": 2},
    "balanced": {"prototype_source": "sinkhorn", "num_prototypes": 2},
    "last_block": {"prototype_target": "cross", "num_prototypes": 2},
    "all_terms": {"lambda_align": 0.3, "lambda_uniform": 0.2, "learn_temperature": True, "robust_fraction": 0.2},
}


def run_case(name: str, workers: Workers) -> dict[str, Tensor]:
    """Return the losses, the summed gradients and what the prototypes came to."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(NUM_PAIRS, 5))
    features = {
        modality: (shared @ rng.normal(size=(5, dim)) + 0.3 * rng.normal(size=(NUM_PAIRS, dim))).astype(np.float32)
        for modality, dim in (("image", 12), ("text", 9))
    }
    blocks = {}
    if name == "last_block":
        backbone = EfficientNetLite(image_size=32)
        features["image"], _ = backbone.embed_hidden(rng.integers(0, 255, (NUM_PAIRS, 32, 32, 3), dtype=np.uint8))
        blocks["image"] = backbone.make_last_block()
    config = EncoderConfig.model_validate({**WHOLE, **CASES[name]})
    fit = EncoderFit(features, config, seed=4, workers=workers, blocks=blocks)
    if fit.config.robust_fraction:
        fit.distrust_pairs(rng.normal(size=NUM_PAIRS).astype(np.float32))
    fit.run_epoch()
    found = {f"{name}.losses": torch.tensor(fit.losses)}
    parameters = [(m, key, p) for m, tower in fit.towers.items() for key, p in tower.named_parameters()]
    parameters.append(("fit", "log_temperature", fit.log_temperature))
    found |= {f"{name}.gradient.{m}.{key}": p.grad for m, key, p in parameters if p.grad is not None}
    for modality, levels in fit.prototypes.items():
        for number, level in enumerate(levels):
            found[f"{name}.assigned.{modality}.{number}"] = torch.from_numpy(level.assigned)
            found[f"{name}.concentrations.{modality}.{number}"] = torch.from_numpy(level.concentrations)
    return found


def main() -> None:
    """Run every case as the worker of the rank that was given."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = [run_case(name, Workers.current()) for name in CASES]
    save_file({key: value for case in found for key, value in case.items()}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
