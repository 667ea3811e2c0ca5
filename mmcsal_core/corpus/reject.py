"""The reason why one pair cannot be used. A reader or decoder raises it, or returns it in place of the content."""

from mmcsal_core.errors import DataError


class RejectPair(DataError):  # noqa: N818  it names what happens to the pair, and is as often a value as an exception
    """One pair that cannot be used; the run goes on without it.

    Args:
        reason: short name in snake_case, stable across versions, e.g. `unreadable_image`.
        message: the rule, the value and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
