"""The reason why one pair cannot be used. A reader or decoder raises it, or returns it in place of the content."""

from mmcsal_core.credentials import mask_credentials
from mmcsal_core.errors import DataError


class RejectPair(DataError):  # noqa: N818  it names what happens to the pair, and is as often a value as an exception
    """One pair that cannot be used; the run goes on without it.

    Args:
        reason: short name in snake_case, stable across versions, e.g. `unreadable_image`.
        message: the rule, the value and what to do; credentials in URLs that it quotes are masked.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = mask_credentials(message)
        super().__init__(reason, self.message)

    def __str__(self) -> str:
        return self.message
