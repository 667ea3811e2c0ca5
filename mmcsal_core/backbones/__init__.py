"""Frozen feature extractors behind one small protocol. Importing this package loads neither torch nor weights."""

from mmcsal_core.backbones.names import check_backbone, check_finetuning, make_path_absolute

__all__ = ["check_backbone", "check_finetuning", "make_path_absolute"]
