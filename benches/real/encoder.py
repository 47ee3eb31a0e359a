"""MiniLM as a sentence encoder: mean of the last hidden states, of length one; a linear head per task on top."""

import torch
from transformers import AutoTokenizer

LENGTH = 32  # tokens; the rest of a text is cut off
BATCH = 16


class Encoder:
    """A trunk with its tokenizer."""

    def __init__(self, trunk, tokenizer):
        self.trunk = trunk
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)

    def embed(self, texts):
        """One unit vector per text."""
        batch = self.tokenizer(texts, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
        hidden = self.trunk(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.no_grad()
    def embed_all(self, texts):
        """The same for many texts, without gradients and dropout, texts of like length together."""
        self.trunk.eval()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = torch.cat([self.embed([texts[i] for i in order[at : at + 64]]) for at in range(0, len(order), 64)])
        result = torch.empty_like(rows)
        result[order] = rows
        return result


def accuracy(head, embeddings, rows):
    """Share of rows whose class the head finds."""
    with torch.no_grad():
        found = head(embeddings).argmax(-1)
    return (found == torch.tensor([label for _, label in rows])).float().mean().item()
