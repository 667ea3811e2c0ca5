"""Which picks may be nearer to a row than what it has: cheap products with a rigorous bound.

A screen names every pair of a row and a pick that might matter; the distances of these are computed anew and decide, so
no screen changes a result, and a screen may be chosen by the clock. Four kinds:

- `ProductScreen`: float32 products by numpy.
- `PrefixScreen`: products of the first principal components, and the rest bounded by its length (Cauchy-Schwarz).
  It pays where the spectrum decays, as that of real embeddings does, on any machine.
- `ByteScreen`: products of 8-bit numbers by torch (oneDNN), with the lengths of what quantisation lost. It pays
  somewhat with AVX2, and more where the CPU multiplies bytes (VNNI, AMX).
- `DeviceScreen`: products by torch on a device, float32, or bfloat16 where screening is on.

docs/decisions/0005-screening.md has figures.
"""

import time
from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from mmcsal_core.neighbors.vectors import Rows, Vectors

Screening: TypeAlias = Literal["auto", "off", "prefix", "int8"]

Pairs: TypeAlias = tuple[Rows, Rows]
"""Places of rows, rising, and places of picks, rising for each row."""

SAMPLE_ROWS = 4096
"""Rows that the principal components are found from."""

MAX_PAIRS_PER_ROW = 6
"""Distances that cost as much as a row's float32 products with a tile of picks, about."""

MIN_PICKS = 64
"""Fewer picks than this are not worth screening."""

PAIR_COST = 3e-7
"""Seconds that a distance takes, about."""

PREFIX_SHARES = (8, 3)
"""Prefixes have these shares of the dimensions."""

TRIAL_BLOCKS = 32
"""Blocks until a screen that was tried is tried again, at first."""

EPSILON = float(np.finfo(np.float32).eps)


class Screen(Protocol):
    """Finds the pairs that may matter."""

    def prepare(self, rows: Rows) -> None:
        """Compute what is kept of rows, once."""

    def find_near(self, rows: Rows, picks: slice, needed: Vectors, rounding: float) -> Pairs:
        """Return every pair that may be a row's nearest and nearer than it needs.

        Args:
            rows: (m,) distinct.
            picks: which picks to compare them with.
            needed: (m,) cosine, in float32 rounding, that a pick must reach to matter.
            rounding: two picks whose float32 cosines with a row differ by more are not equally near.
        """


class Operands:
    """Rows and picks; picks are only ever added.

    Args:
        vectors: (n, D) of about unit length, float32 or float16; never copied or changed.
    """

    def __init__(self, vectors: npt.NDArray[np.floating]) -> None:
        self.vectors = vectors
        self.num_picks = 0
        self._picks = np.empty((0, vectors.shape[1]), dtype=np.float32)

    @property
    def picks(self) -> Vectors:
        """All picks so far, (p, D)."""
        return self._picks[: self.num_picks]

    def add(self, picks: Vectors) -> None:
        """Add picks (p, D)."""
        needed = self.num_picks + len(picks)
        if needed > len(self._picks):
            grown = np.empty((max(needed, 2 * len(self._picks)), self._picks.shape[1]), dtype=np.float32)
            grown[: self.num_picks] = self.picks
            self._picks = grown
        self._picks[self.num_picks : needed] = picks
        self.num_picks = needed

    def take(self, rows: Rows) -> Vectors:
        """Return vectors (m, D) float32 of rows."""
        return self.vectors.take(rows, axis=0).astype(np.float32, copy=False)


class ProductScreen:
    """Float32 products."""

    def __init__(self, operands: Operands) -> None:
        self._operands = operands

    def prepare(self, rows: Rows) -> None:
        """Nothing is kept."""

    def find_near(self, rows: Rows, picks: slice, needed: Vectors, rounding: float) -> Pairs:
        """Return the pairs whose cosine is the row's best, up to rounding, and as large as needed."""
        cosines = self._operands.take(rows) @ self._operands.picks[picks].T
        best = cosines.max(axis=1)
        near = np.flatnonzero(best >= needed)
        least = np.maximum(needed[near], best[near] - np.float32(rounding))
        left, right = split_places(np.flatnonzero(cosines.take(near, axis=0) >= least[:, None]), cosines.shape[1])
        return near[left], right


class PrefixScreen:
    """Products of `num_axes` principal components; `<x, p> <= <x', p'> + |x - x'| |p - p'|`.

    The lengths of what is left out are one more column, so the product is the bound.

    Args:
        operands: rows and picks.
        axes: (D, D) orthonormal columns, the most important ones first.
        num_axes: columns used.
    """

    def __init__(self, operands: Operands, axes: Callable[[], Vectors], num_axes: int) -> None:
        self._operands, self._find_axes, self._num_axes = operands, axes, num_axes
        self._short_rows = np.empty((len(operands.vectors), num_axes + 1), dtype=np.float32)
        self._is_short = np.zeros(len(operands.vectors), dtype=bool)
        self._short_picks = Operands(self._short_rows[:0])

    @cached_property
    def _axes(self) -> Vectors:
        return np.ascontiguousarray(self._find_axes()[:, : self._num_axes])

    def find_near(self, rows: Rows, picks: slice, needed: Vectors, rounding: float) -> Pairs:
        """Return the pairs whose bound is as large as needed."""
        new = self._operands.picks[self._short_picks.num_picks :]
        if len(new):
            self._short_picks.add(self._shorten(new))
        self.prepare(rows)
        bounds = self._short_rows.take(rows, axis=0) @ self._short_picks.picks[picks].T
        return split_places(np.flatnonzero(bounds >= needed[:, None]), bounds.shape[1])

    def prepare(self, rows: Rows) -> None:
        """Project the rows that are not projected yet."""
        missing = rows[~self._is_short[rows]]
        if len(missing):
            self._short_rows[missing] = self._shorten(self._operands.take(missing))
            self._is_short[missing] = True

    def _shorten(self, vectors: Vectors) -> Vectors:
        heads = vectors @ self._axes
        squared = np.einsum("nd,nd->n", vectors, vectors) - np.einsum("nd,nd->n", heads, heads)
        slack = 16 * (vectors.shape[1] + 4) * EPSILON
        tails = np.sqrt(np.maximum(squared, 0) + np.float32(slack))
        return np.concatenate([heads, tails[:, None]], axis=1)


def open_screen(operands: Operands, screening: Screening, device: str | None) -> Screen:
    """Return the screen to use: on a device that one, else the fastest of those that are wanted."""
    if device is None:
        return FastestScreen(operands, screening)
    from mmcsal_core.selection.engine.torch_screens import DeviceScreen  # noqa: PLC0415  slow to load

    return DeviceScreen(operands, device, is_rough=screening != "off")


class FastestScreen:
    """The screen that was fastest when it was last tried; the slower ones are tried again from time to time.

    A screen that leaves too many pairs open is followed by float32 products of the rows that it left open.

    Args:
        operands: rows and picks.
        screening: which screens to try beside float32 products.
    """

    def __init__(self, operands: Operands, screening: Screening) -> None:
        self._product = ProductScreen(operands)
        self._screens: list[Screen] = [self._product, *open_screens(operands, screening)]
        self._seconds = [0.0] * len(self._screens)
        self._turns, self._waits = [0] * len(self._screens), [TRIAL_BLOCKS] * len(self._screens)
        self._tried: int | None = None
        self._num_blocks = 0

    def prepare(self, rows: Rows) -> None:
        """Each screen prepares the rows that it is asked about."""

    def find_near(self, rows: Rows, picks: slice, needed: Vectors, rounding: float) -> Pairs:
        """Return every pair that may be a row's nearest and nearer than it needs."""
        num_picks = picks.stop - picks.start
        if len(self._screens) == 1 or num_picks < MIN_PICKS:
            return self._product.find_near(rows, picks, needed, rounding)
        number = self._choose()
        self._screens[number].prepare(rows)
        started = time.thread_time()
        left, right = self._screens[number].find_near(rows, picks, needed, rounding)
        if len(left) > MAX_PAIRS_PER_ROW * len(rows):
            open_rows = np.unique(left)
            left, right = self._product.find_near(rows[open_rows], picks, needed[open_rows], rounding)
            left = open_rows[left]
        pair_seconds = PAIR_COST * len(left)
        self._seconds[number] = (time.thread_time() - started + pair_seconds) / (len(rows) * num_picks)
        return left, right

    def _choose(self) -> int:
        """Return a screen whose turn it is to be tried, else the fastest; what loses a trial waits twice as long."""
        self._num_blocks += 1
        fastest = int(np.argmin(self._seconds))
        if self._tried is not None:
            self._waits[self._tried] = TRIAL_BLOCKS if self._tried == fastest else 2 * self._waits[self._tried]
            self._turns[self._tried] = self._num_blocks + self._waits[self._tried]
        due = [number for number, turn in enumerate(self._turns) if turn <= self._num_blocks]
        self._tried = due[0] if due else None
        return fastest if self._tried is None else self._tried


def open_screens(operands: Operands, screening: Screening) -> list[Screen]:
    """Make the screens that may pay: prefixes of several lengths, and bytes where torch multiplies them."""
    dim = operands.vectors.shape[1]
    screens: list[Screen] = []
    if screening in ("auto", "prefix"):
        axes = cache(partial(find_axes, operands))
        screens += [PrefixScreen(operands, axes, dim // share - 1) for share in PREFIX_SHARES if dim // share > 8]
    if screening in ("auto", "int8"):
        from mmcsal_core.selection.engine.torch_screens import ByteScreen, multiplies_bytes  # noqa: PLC0415  slow to load

        if multiplies_bytes():
            screens.append(ByteScreen(operands))
    return screens


def find_axes(operands: Operands) -> Vectors:
    """Return the principal axes of a sample of the rows as the columns of (D, D), the most important first."""
    num_rows = len(operands.vectors)
    sample = operands.take(np.linspace(0, num_rows - 1, min(num_rows, SAMPLE_ROWS)).astype(np.int64)).astype(np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    return axes[:, ::-1].astype(np.float32)


def split_places(places: Rows, num_picks: int) -> Pairs:
    """Split places in a flattened (m, p) matrix into places of rows and of picks."""
    left, right = np.divmod(places, num_picks)
    return left, right
