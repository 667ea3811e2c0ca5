"""A pickle that does something when it is opened: a model file that would run code holds one."""

import os
from collections.abc import Callable
from pathlib import Path


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)
