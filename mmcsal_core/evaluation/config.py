"""What can be configured about an evaluation: who contends, for which budgets, and what learns from the picks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from mmcsal_core.errors import ConfigError
from mmcsal_core.selection.config import SelectionConfig, Strategy
from mmcsal_core.selection.constraints.demands import BY_NUMBER
from mmcsal_core.settings import Settings

ProbeName: TypeAlias = Literal["features", "linear", "knn"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

OURS: tuple[Strategy, ...] = ("mmcsal", "mmcsal_continuous")
"""Strategies that are no baseline."""

DRAWING: tuple[Strategy, ...] = ("random", "kmeans", "typiclust", "probcover", "activeft", "mmcsal_continuous")
"""Strategies whose picks hang on a seed in pools of any size."""

RANDOM = "random"
"""The contestant that all are compared with, and whose curve says what labels are saved."""

_LIMITS = ("strategy", "min_gain", "min_distance", "near_duplicates")
"""Keys of a selection that no contestant takes over: they end it early or close pairs, and a budget must be filled."""


@dataclass(frozen=True)
class Contestant:
    """One way to select, under a name of its own."""

    name: str
    config: SelectionConfig

    @property
    def is_drawn(self) -> bool:
        """Whether another seed gives other picks."""
        return self.config.strategy in DRAWING

    @property
    def is_prefix(self) -> bool:
        """Whether the first picks are exactly those of a smaller budget."""
        is_refined = self.config.strategy == "mmcsal" and self.config.refine != "none"
        return self.config.strategy not in BY_NUMBER and not is_refined


class EvaluateConfig(Settings):
    """Who contends, for which budgets, and what learns from the picks."""

    label_column: str | None = Field(
        None,
        min_length=1,
        description="metadata column with the class of a pair; without one nothing is evaluated. No stage that embeds "
        "or picks looks at it",
    )
    mispaired_column: str | None = Field(
        None, min_length=1, description="metadata column of booleans, true where the halves do not belong together"
    )
    budgets: tuple[int, ...] = Field((), description="pairs to pick")
    budgets_per_class: tuple[int, ...] = Field((1, 2, 5), description="pairs to pick, times the number of classes")
    baseline_budgets_per_class: tuple[int, ...] = Field(
        (1, 2, 5, 10, 20),
        description="further budgets of random, times the number of classes, at most the pool: the curve that label "
        "savings are read from",
    )
    num_splits: int = Field(5, ge=1, description="stratified splits into pool and test; an interval needs two")
    test_fraction: float = Field(0.3, gt=0, lt=1, description="share of each class that tests; one pair stays at least")
    num_seeds: int = Field(3, ge=1, description="draws a split of each strategy that draws; their mean counts")
    strategies: tuple[str | dict[str, Any], ...] = Field(
        (),
        description="strategies by name, or mappings of name, strategy and other keys of selection; those left out are "
        "as in selection, without its limits; by default every strategy",
    )
    probes: tuple[ProbeName, ...] = Field(
        ("features", "linear", "knn"),
        min_length=1,
        description="what learns from the picks: features (logistic regression on the backbones' features), linear "
        "(the same on embeddings), knn (nearest picks by embeddings)",
    )
    knn_neighbors: int = Field(1, ge=1, description="picks that vote in the probe knn")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals")

    @field_validator("budgets", "budgets_per_class", "baseline_budgets_per_class")
    @classmethod
    def _check_budgets(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if budgets and min(budgets) < 1:
            raise ValueError(f"a budget is 1 or more, got {min(budgets)}; leave it out")
        return budgets

    @model_validator(mode="after")
    def _check_contest(self) -> "EvaluateConfig":
        if not self.budgets and not self.budgets_per_class:
            raise ValueError("an evaluation needs a budget, got none; give budgets or budgets_per_class")
        if len(set(self.probes)) < len(self.probes):
            raise ValueError(f"each probe is named once, got {', '.join(self.probes)}; leave one out")
        try:
            make_contestants(self, SelectionConfig())
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def list_budgets(self, num_classes: int) -> list[int]:
        """Return the budgets of every contestant, rising."""
        return sorted({*self.budgets, *(each * num_classes for each in self.budgets_per_class)})

    def list_random_budgets(self, num_classes: int, num_pairs: int) -> list[int]:
        """Return the budgets of random in a pool of so many pairs, rising: those of all, and further ones."""
        further = {min(each * num_classes, num_pairs) for each in self.baseline_budgets_per_class}
        return sorted({*self.list_budgets(num_classes), *further})


def make_contestants(config: EvaluateConfig, base: SelectionConfig) -> list[Contestant]:
    """Make the contestants that are configured, by default one for every strategy.

    Args:
        config: its `strategies` are looked at.
        base: where the keys that are left out come from, but for those that end a selection early or close pairs; keys
            of a subclass are left out too.

    Raises:
        ConfigError: a strategy or a key is unknown, or a name is given twice.
    """
    shared = base.model_dump(mode="json", include=set(SelectionConfig.model_fields) - set(_LIMITS))
    entries = config.strategies or STRATEGIES
    contestants = [_make_contestant(entry, shared) for entry in entries]
    names = [contestant.name for contestant in contestants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"each of the strategies has a name of its own, got {twice!r} twice; add name: to one")
    return contestants


def _make_contestant(entry: str | Mapping[str, Any], shared: Mapping[str, Any]) -> Contestant:
    keys = {"strategy": entry} if isinstance(entry, str) else dict(entry)
    strategy = keys.get("strategy")
    if strategy not in STRATEGIES:
        raise ConfigError(f"a strategy is one of {', '.join(STRATEGIES)}, got {strategy!r}; choose one of them")
    name = keys.pop("name", strategy)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the name of a strategy is text, got {name!r}; write e.g. name: {strategy}")
    if name == RANDOM and strategy != RANDOM:
        raise ConfigError(
            f"the name {RANDOM} is that of the strategy {RANDOM}, got strategy {strategy}; name it otherwise"
        )
    try:
        return Contestant(name, SelectionConfig.model_validate_json(json.dumps({**shared, **keys})))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"strategy {name!r} has a wrong key {key!r}: {problem['msg']}; correct it") from error
