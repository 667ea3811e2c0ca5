"""The losses against plain loops, and what they must do at their extremes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcsal_core.encoder.config import EncoderConfig
from mmcsal_core.encoder.losses import alignment_loss, info_nce, proto_nce, uniformity_loss
from mmcsal_core.encoder.objective import Batch, list_targets, list_weights, measure_losses
from mmcsal_core.encoder.prototypes import Prototypes


def make_units(num_rows: int, seed: int, dim: int = 6) -> Tensor:
    vectors = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1)


def plain_info_nce(a: Tensor, b: Tensor, temperature: float) -> float:
    total = 0.0
    for i in range(len(a)):
        to_b = [math.exp(float(a[i] @ b[j]) / temperature) for j in range(len(a))]
        to_a = [math.exp(float(b[i] @ a[j]) / temperature) for j in range(len(a))]
        total -= (math.log(to_b[i] / sum(to_b)) + math.log(to_a[i] / sum(to_a))) / 2
    return total / len(a)


def plain_proto_nce(z: Tensor, prototypes: Tensor, phi: Tensor, assigned: Tensor) -> float:
    total = 0.0
    for i in range(len(z)):
        terms = [math.exp(float(z[i] @ prototypes[j]) / float(phi[j])) for j in range(len(prototypes))]
        total -= math.log(terms[int(assigned[i])] / sum(terms))
    return total / len(z)


def test_info_nce_equals_the_plain_loop() -> None:
    a, b = make_units(9, 0), make_units(9, 1)
    assert float(info_nce(a, b, 0.07)) == pytest.approx(plain_info_nce(a, b, 0.07), rel=1e-9)


def test_info_nce_is_symmetric_and_lowest_where_pairs_agree() -> None:
    a, b = make_units(9, 0), make_units(9, 1)
    assert float(info_nce(a, b, 0.1)) == pytest.approx(float(info_nce(b, a, 0.1)))
    assert float(info_nce(a, a, 0.1)) < float(info_nce(a, b, 0.1))


def test_info_nce_of_one_pair_is_zero() -> None:
    assert float(info_nce(make_units(1, 0), make_units(1, 1), 0.07)) == 0.0


def test_shares_of_the_anchors_add_up_to_the_whole() -> None:
    a, b = make_units(9, 0), make_units(9, 1)
    shares = [float(info_nce(a, b, 0.07, part)) for part in (slice(0, 2), slice(2, 9))]
    assert sum(shares) == pytest.approx(float(info_nce(a, b, 0.07)), rel=1e-12)


def test_rows_of_weight_zero_are_left_out_of_the_mean_and_stay_negatives() -> None:
    a, b = make_units(9, 0), make_units(9, 1)
    weights = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 0, 1], dtype=torch.float64)
    to_b, to_a = (torch.log_softmax(x @ y.T / 0.07, dim=1).diagonal() for x, y in ((a, b), (b, a)))
    expected = -(to_b + to_a)[weights > 0].mean() / 2
    assert float(info_nce(a, b, 0.07, weights=weights)) == pytest.approx(float(expected), rel=1e-9)
    assert float(info_nce(a, b, 0.07, weights=weights.new_ones(9))) == pytest.approx(float(info_nce(a, b, 0.07)))
    shares = [float(info_nce(a, b, 0.07, part, weights)) for part in (slice(0, 4), slice(4, 9))]
    assert sum(shares) == pytest.approx(float(expected), rel=1e-9)
    assert float(info_nce(a, b, 0.07, weights=weights.new_zeros(9))) == 0.0


def test_proto_nce_equals_the_plain_loop() -> None:
    z, prototypes = make_units(9, 0), make_units(4, 1)
    phi, assigned = torch.tensor([0.05, 0.07, 0.2, 0.1]), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    expected = plain_proto_nce(z, prototypes, phi, assigned)
    assert float(proto_nce(z, prototypes, phi.double(), assigned)) == pytest.approx(expected, rel=1e-6)


def test_proto_nce_of_a_single_prototype_is_zero() -> None:
    z = make_units(5, 0)
    assert float(proto_nce(z, z[:1], torch.tensor([0.07]).double(), torch.zeros(5, dtype=torch.int64))) == 0.0


def test_alignment_and_uniformity_equal_their_definitions() -> None:
    a, b = make_units(7, 0), make_units(7, 1)
    assert float(alignment_loss(a, b)) == pytest.approx(np.mean([float((a[i] - b[i]).norm()) ** 2 for i in range(7)]))
    potentials = [math.exp(-2 * float((a[i] - a[j]).norm()) ** 2) for i in range(7) for j in range(7) if i != j]
    assert float(uniformity_loss(a)) == pytest.approx(math.log(np.mean(potentials)))
    assert float(uniformity_loss(a[:1])) == 0.0


@pytest.mark.parametrize("target", ["own", "cross", "both"])
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_target_weights_add_up_to_one(target: str, num_modalities: int) -> None:
    config = EncoderConfig.model_validate({"prototype_target": target})
    targets = list_targets(num_modalities, config.prototype_target)
    assert sum(weight for _, _, weight in targets) == pytest.approx(1.0)
    assert {m for m, _, _ in targets} == set(range(num_modalities))
    assert (target == "own") == all(m == other for m, other, _ in targets)
    assert (target == "cross") == all(m != other for m, other, _ in targets)


def test_losses_of_three_modalities_are_means_over_their_pairs() -> None:
    z = [make_units(8, seed) for seed in range(3)]
    config = EncoderConfig(lambda_align=0.5, lambda_uniform=0.1)
    batch = Batch(np.arange(8), slice(0, 8), z, z)
    losses = measure_losses(batch, torch.tensor(0.07), {}, config)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert set(losses) == {"info_nce", "alignment", "uniformity"}
    assert float(losses["info_nce"]) == pytest.approx(np.mean([plain_info_nce(z[a], z[b], 0.07) for a, b in pairs]))
    assert float(losses["alignment"]) == pytest.approx(np.mean([float(alignment_loss(z[a], z[b])) for a, b in pairs]))


def make_levels(num_modalities: int, num_rows: int) -> list[list[Prototypes]]:
    """Two granularities a modality, of other numbers of prototypes, other concentrations and other clusters."""
    rng = np.random.default_rng(0)

    def make(num_prototypes: int, seed: int) -> Prototypes:
        concentrations = rng.uniform(0.05, 0.3, num_prototypes).astype(np.float32)
        assigned = rng.integers(0, num_prototypes, num_rows, dtype=np.int32)
        return Prototypes(make_units(num_prototypes, seed).float().numpy(), concentrations, assigned)

    return [[make(2 + m, 10 + m), make(4 + m, 20 + m)] for m in range(num_modalities)]


@pytest.mark.parametrize("target", ["own", "cross", "both"])
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_proto_nce_is_the_mean_over_granularities_of_its_own_and_its_partners_prototypes(
    target: str, num_modalities: int
) -> None:
    config = EncoderConfig.model_validate({"prototype_target": target})
    z = [make_units(6, seed).float() for seed in range(num_modalities)]
    levels = make_levels(num_modalities, 6)

    def measure(modality: int, other: int) -> float:
        parts = [(level.centroids, level.concentrations, level.assigned) for level in levels[other]]
        return float(np.mean([plain_proto_nce(z[modality], *map(torch.from_numpy, each)) for each in parts]))

    everyone = range(num_modalities)
    own = float(np.mean([measure(m, m) for m in everyone]))
    cross = float(np.mean([measure(m, other) for m in everyone for other in everyone if m != other]))
    expected = {"own": own, "cross": cross, "both": (own + cross) / 2}[target]
    prototypes = {f"modality {m}": level for m, level in enumerate(levels)}
    losses = measure_losses(Batch(np.arange(6), slice(0, 6), z, z), torch.tensor(0.07), prototypes, config)
    assert float(losses["proto_nce"]) == pytest.approx(expected, rel=1e-4)


def test_only_losses_with_a_weight_are_in_use() -> None:
    assert list_weights(EncoderConfig(lambda_proto=0)) == {"info_nce": 1.0}
    assert list(list_weights(EncoderConfig(lambda_align=1.0))) == ["info_nce", "proto_nce", "alignment"]
    config = EncoderConfig(lambda_proto=0.3, lambda_align=0.7, lambda_uniform=0.2)
    assert list_weights(config) == {"info_nce": 1.0, "proto_nce": 0.3, "alignment": 0.7, "uniformity": 0.2}
