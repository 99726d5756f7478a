"""The decoder families that can be un-masked, and token ids no window of theirs cuts: at most 8 tokens."""

import torch

import families

DECODERS = [
    name
    for name in families.available()
    if name in {"llama", "mistral", "ministral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3"}
]


def batch():
    """Token ids (3, 8) and their mask: padded right, padded left, not padded."""
    ids = torch.randint(5, 90, (3, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    mask[1, :3] = 0
    return ids, mask


@torch.no_grad()
def states(network, ids, mask=None):
    return network(input_ids=ids, attention_mask=mask)[0]


def change(a, b):
    """For every token, how much the greatest of its coordinates changes."""
    return (a - b).abs().amax(dim=-1)
