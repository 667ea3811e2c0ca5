"""Statistics of a log-mel spectrogram, the embedded audio backbone: no weights, torch alone.

Three numbers per mel band: the mean, the standard deviation over time and the mean absolute step between frames. They
tell timbre and its movement, not words. Bands follow the HTK mel scale, energies are in natural logarithms. The
zero-padding at the end of a window is left out, or short clips would look alike. Clips are computed one by one: they
differ in length, and no clip's rounding depends on its neighbours.
"""

import numpy as np
import numpy.typing as npt
import torch

from mmcsal_core.backbones.backbone import Batch, Features

_WINDOW_S = 0.025
_HOP_S = 0.010
_FLOOR = 1e-6


class LogMel:
    """Mean, deviation and movement of 64 mel bands.

    Args:
        sample_rate: samples per second of the clips.
    """

    num_mels = 64
    dim = 3 * num_mels

    def __init__(self, sample_rate: int) -> None:
        self._window_length = round(_WINDOW_S * sample_rate)
        self._hop_length = round(_HOP_S * sample_rate)
        self._num_fft = 2 ** (2 * self._window_length - 1).bit_length()
        self._window = torch.hann_window(self._window_length)
        self._filters = torch.from_numpy(build_mel_filters(self.num_mels, self._num_fft, sample_rate))

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Features:
        """Embed clips, float32 (n, samples), as float32 (n, 192)."""
        return np.stack([self._embed_clip(clip) for clip in np.asarray(batch, dtype=np.float32)])

    def _embed_clip(self, clip: npt.NDArray[np.float32]) -> Features:
        bands = self._log_mel(torch.from_numpy(_drop_padding(clip, self._num_fft)))
        steps = bands.diff(dim=1).abs()
        movement = steps.mean(dim=1) if steps.shape[1] else torch.zeros(self.num_mels)
        features: Features = torch.cat([bands.mean(dim=1), bands.std(dim=1, correction=0), movement]).numpy()
        return features

    def _log_mel(self, clip: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(
            clip,
            self._num_fft,
            self._hop_length,
            self._window_length,
            self._window,
            center=False,
            return_complex=True,
        )
        return torch.log(self._filters @ spectrum.abs().square() + _FLOOR)


def build_mel_filters(num_mels: int, num_fft: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """Build triangular filters, equally spaced on the HTK mel scale up to half the sample rate.

    Returns:
        float32 (num_mels, num_fft // 2 + 1).
    """
    top_mel = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    edges_hz = 700.0 * (10.0 ** (np.linspace(0.0, top_mel, num_mels + 2) / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, sample_rate / 2, num_fft // 2 + 1)
    low, middle, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - low) / (middle - low)
    falling = (high - bins_hz) / (high - middle)
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _drop_padding(clip: npt.NDArray[np.float32], min_length: int) -> npt.NDArray[np.float32]:
    sounding = np.flatnonzero(clip)
    length = max(min_length, int(sounding[-1]) + 1 if sounding.size else 0)
    kept = clip[:length].copy()
    return np.pad(kept, (0, max(0, min_length - len(kept))))
