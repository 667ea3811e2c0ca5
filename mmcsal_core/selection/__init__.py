"""Objectives, the greedy engine and the baselines."""

from mmcsal_core.selection.config import SelectionConfig
from mmcsal_core.selection.coreset import Coreset
from mmcsal_core.selection.strategies import select_coreset

__all__ = ["Coreset", "SelectionConfig", "select_coreset"]
