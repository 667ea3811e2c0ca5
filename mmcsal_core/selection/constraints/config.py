"""What can be configured about quotas and near-duplicates."""

from typing import Literal

from pydantic import Field, model_validator

from mmcsal_core.settings import Settings


class QuotaConfig(Settings):
    """How many picks each group gets. A group is a value of a metadata column, spelled as text; NULL is `null`."""

    column: str | None = Field(None, description="metadata column whose values are the groups; NULL is the group null")
    exact: dict[str, int] = Field(default_factory=dict, description="picks of a group, e.g. {cat: 20, dog: 10}")
    minimum: dict[str, int] = Field(default_factory=dict, description="picks of a group, at least")
    maximum: dict[str, int] = Field(default_factory=dict, description="picks of a group, at most")
    balance: Literal["equal", "proportional"] | None = Field(
        None, description="share the whole budget out: equally, or as the pool is shared; within the other quotas"
    )

    @model_validator(mode="after")
    def _check_numbers(self) -> "QuotaConfig":
        has_quotas = bool(self.exact or self.minimum or self.maximum or self.balance)
        if has_quotas != (self.column is not None):
            raise ValueError(
                "quotas are a column and at least one of exact, minimum, maximum and balance, got "
                f"column {self.column!r} and {'some' if has_quotas else 'none'} of these; add what is missing"
            )
        for name in ("exact", "minimum", "maximum"):
            wrong = {group: number for group, number in getattr(self, name).items() if number < 0}
            if wrong:
                raise ValueError(f"a quota is 0 or more, got {name} {wrong}; correct it")
        both = sorted(set(self.exact) & (set(self.minimum) | set(self.maximum)))
        if both:
            raise ValueError(f"a group with an exact quota takes no other, got {', '.join(both)}; keep one")
        crossed = [group for group, number in self.minimum.items() if number > self.maximum.get(group, number)]
        if crossed:
            group = crossed[0]
            raise ValueError(
                f"a minimum may not exceed the maximum, got {self.minimum[group]} and {self.maximum[group]} for "
                f"{group!r}; lower the minimum"
            )
        return self

    @property
    def needs_budget(self) -> bool:
        """Whether the quotas cannot be kept without knowing how many pairs are picked."""
        return bool(self.exact or self.minimum or self.balance)


class NearDuplicateConfig(Settings):
    """Of pairs that are nearly the same, only one may be picked."""

    threshold: float | None = Field(
        None, gt=0, le=1, description="cosine of joint vectors from which pairs are near-duplicates; by default off"
    )
