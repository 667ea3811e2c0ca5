"""WordLlama (MIT), the embedded text backbone: averaged static token vectors, whose weights come inside the package."""

from pathlib import Path

import numpy as np
import wordllama

from mmcsal_core.backbones.backbone import Batch, Features


class WordLlamaText:
    """The mean of a text's token vectors."""

    dim = 256

    def __init__(self) -> None:
        # `cache_dir` points at the package's own files; without it the constructor asks the network.
        folder = Path(wordllama.__file__).parent
        self._model = wordllama.WordLlama.load(dim=self.dim, cache_dir=folder, disable_download=True)

    def embed(self, batch: Batch) -> Features:
        """Embed n texts as float32 (n, 256), each alone, so that no text depends on its neighbours' padding."""
        return np.concatenate([self._model.embed([text]) for text in batch]).astype(np.float32, copy=False)
