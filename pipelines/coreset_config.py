"""What can be configured about the coreset stage: how many pairs are chosen, which ones may be, and how."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mmcsal_core.credentials import check_url
from mmcsal_core.errors import ConfigError, GateError
from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.constraints.config import QuotaConfig
from mmcsal_core.selection.constraints.demands import check_options

ENDS = ("budget", "budget_fraction", "cost_budget", "min_gain", "min_distance")


class CoresetConfig(SelectionConfig):
    """How many pairs are chosen, which ones may be, and how."""

    budget: int | None = Field(None, ge=1, description="pairs to pick; one of the ends of a selection must be given")
    budget_fraction: float | None = Field(
        None, gt=0, le=1, description="share of the pool's unlabelled pairs to pick, one pair at least; not with budget"
    )
    cost_column: str | None = Field(None, description="metadata column with the cost of a pair, a number above 0")
    cost_budget: float | None = Field(
        None,
        gt=0,
        description="what the picks may cost together; a pair that costs more than is left, beside what "
        "unmet minimums need, is skipped",
    )
    cost_rule: Literal["gain_per_cost", "gain"] = Field(
        "gain_per_cost", description="where there are costs, what the next pick has most of"
    )
    labelled: str | tuple[str, ...] | None = Field(
        None,
        description="pairs that are labelled already: they count as picked and are not picked. Pair ids, or a path, "
        "pattern or URL (read with source_options) of Parquet or CSV with a column pair_id, or of text, an id a line; "
        "read once, when the run begins, and not from the run's own folder",
    )
    exclude: str | tuple[str, ...] | None = Field(
        None, description="pairs that leave the pool, neither picked nor represented; given like labelled"
    )
    where: str | None = Field(
        None,
        description="condition in SQL on metadata columns, alignment, out_of_fold_alignment, consistency, suspicion "
        "and prototype_<modality>; pairs for which it is not true leave the pool; labelled pairs stay",
    )
    quotas: QuotaConfig = Field(QuotaConfig(), description="how many picks each value of a metadata column gets")
    stratum_column: str | None = Field(
        None, description="metadata column that is copied into the stratum column; by default that of the quotas"
    )

    @field_validator("labelled", "exclude", mode="before")
    @classmethod
    def _spell_ids(cls, listed: object) -> object:
        """Take ids that are whole numbers for what they are in pairs/: their digits."""
        if not isinstance(listed, list | tuple):
            return listed
        return tuple(str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in listed)

    @field_validator("labelled", "exclude")
    @classmethod
    def _check_url(cls, listed: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return check_url(listed) if isinstance(listed, str) else listed

    @model_validator(mode="after")
    def _check_end(self) -> "CoresetConfig":
        if all(getattr(self, name) is None for name in ENDS):
            raise ValueError(f"a selection needs an end, got none; give at least one of {', '.join(ENDS)}")
        if self.budget is not None and self.budget_fraction is not None:
            raise ValueError(
                f"budget and budget_fraction exclude each other, got {self.budget} and {self.budget_fraction}; write "
                "budget: null beside a budget_fraction"
            )
        if self.cost_budget is not None and self.cost_column is None:
            raise ValueError(f"a cost_budget needs a cost_column, got {self.cost_budget} and none; name the column")
        return self

    @model_validator(mode="after")
    def _check_quotas(self) -> "CoresetConfig":
        if self.quotas.needs_budget and not self.has_budget:
            raise ValueError(
                "quotas exact, minimum and balance need to know how many pairs are picked, got no budget; give budget "
                "or budget_fraction"
            )
        least = sum(self.quotas.minimum.values()) + sum(self.quotas.exact.values())
        if self.budget is not None and least > self.budget:
            raise ValueError(
                f"minimums sum to {least} and the budget is {self.budget}: {least - self.budget} too many; lower a "
                "minimum or raise the budget"
            )
        return self

    @model_validator(mode="after")
    def _check_strategy(self) -> "CoresetConfig":
        divides_gain = self.cost_column is not None and self.cost_rule == "gain_per_cost"
        try:
            check_options(self, has_budget=self.has_budget, divides_gain=divides_gain)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def has_budget(self) -> bool:
        """Whether the number of picks is known, as rows or as a share."""
        return self.budget is not None or self.budget_fraction is not None

    @property
    def group_column(self) -> str | None:
        """The metadata column that is copied into the stratum column."""
        return self.stratum_column or self.quotas.column

    def list_columns(self) -> dict[str, str]:
        """Return the metadata columns that are named, by key."""
        named = {
            "stratum_column": self.stratum_column,
            "quotas.column": self.quotas.column,
            "cost_column": self.cost_column,
        }
        return {key: column for key, column in named.items() if column is not None}

    def count_picks(self, num_pairs: int) -> int:
        """Return how many of so many pairs are picked, at most.

        Raises:
            GateError: the budget is larger than that.
        """
        if self.budget_fraction is not None:
            return max(1, round(self.budget_fraction * num_pairs))
        if self.budget is None:
            return num_pairs
        if self.budget > num_pairs:
            raise GateError(
                f"the budget must not exceed the pool, but {self.budget} pairs are asked for and {num_pairs} are "
                "usable; lower the budget, loosen where or exclude, or see rejects/ for what was lost"
            )
        return self.budget
