"""The vectors that a strategy measures on: all modalities of the shared space, one of them, or backbone features."""

from dataclasses import replace

from mmcsal_core.errors import ConfigError
from mmcsal_core.neighbors.backbone_space import reduce_features
from mmcsal_core.neighbors.vectors import Vectors
from mmcsal_core.schema import backbone_space, relation_name
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.pool import Pool

JOINT = "joint"
FEATURES = "features"


def restrict_pool(pool: Pool, config: SelectionConfig) -> Pool:
    """Return the pool as the strategy is to see it; `joint` leaves it as it is.

    Args:
        pool: N pairs.
        config: its `space` is `joint`, `features` or the name of a modality, in this order where names clash.

    Returns:
        A pool of the same rows. For `features` it has the single modality of that name: the backbones' own spaces side
        by side, each of unit length and of its modality's weight. A single modality cannot be mispaired, so a pool of
        one has no suspicion.

    Raises:
        ConfigError: there is no such modality, or no features.
    """
    if config.space == JOINT:
        return pool
    if config.space == FEATURES:
        return Pool({FEATURES: _join_features(pool, config)}, {})
    if config.space not in pool.embeddings:
        raise ConfigError(
            f"selection.space must be joint, features or a modality ({', '.join(pool.embeddings)}), "
            f"got {config.space!r}; choose one of them"
        )
    return _keep_modality(pool, config.space)


def _keep_modality(pool: Pool, name: str) -> Pool:
    own = [relation_name(name, name), relation_name(backbone_space(name), backbone_space(name))]
    return replace(
        pool,
        embeddings={name: pool.embeddings[name]},
        features={key: x for key, x in pool.features.items() if key == name},
        neighbors=None
        if pool.neighbors is None
        else {key: pool.neighbors[key] for key in own if key in pool.neighbors},
        spaces=None if pool.spaces is None else {key: x for key, x in pool.spaces.items() if key == name},
        weights={},
        suspicion=None,
    )


def _join_features(pool: Pool, config: SelectionConfig) -> Vectors:
    spaces = pool.spaces
    if not spaces and config.search.backbone_dims > 0:
        spaces = {name: reduce_features(x, config.search.backbone_dims) for name, x in pool.features.items()}
    if not spaces:
        raise ConfigError(
            "selection.space features measures on backbone features, but this pool has none; give features, keep "
            "backbone_dims above 0, or set selection.space to joint"
        )
    return Pool(spaces, {}, weights=pool.weights).joint
