"""What extraction is compared with: a bare Hugging Face model. Imports nothing of the package."""

import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


class Bare:
    """The blocks 0..`layer` of a model as transformers loads it, which read plain rows."""

    def __init__(self, folder: str | Path, layer: int, dtype: str):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.words = model.config.vocab_size
        self.model = model.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.model.layers = self.model.layers[: layer + 1]

    @torch.inference_mode()
    def seconds(self, tokens: int, length: int) -> float:
        """Time to read so many random tokens in rows of a `length`: one row after the other, or on
        a GPU as many at once as are 16,384 tokens."""
        rows = max(1, round(tokens / length))
        ids = torch.randint(self.words, (rows, length), device=self.model.device)
        together = max(1, 16384 // length) if torch.cuda.is_available() else 1
        start = time.perf_counter()
        for some in ids.split(together):
            self.model(input_ids=some, use_cache=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * tokens / (rows * length)
