"""The method of mmcsal: plain Python on numpy, torch, pyarrow and faiss; it never imports Ray, YAML or the CLI."""

from mmcsal_core.version import __version__

__all__ = ["__version__"]
