"""Packages whose names are imported when they are first used."""

from importlib import import_module

import pytest


@pytest.mark.parametrize("package", ["encoder", "evaluation", "selection"])
def test_every_public_name_is_found_and_no_other(package: str) -> None:
    module = import_module(f"mmcsal_core.{package}")
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module 'mmcsal_core.{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018  looked up, not used
