"""Batches of any padding for models that run in stages, and who of them leaves when."""

import torch

LENGTHS = [7, 12, 3, 9, 12, 5]


def inputs(lengths, side):
    """Token ids (B, T) and their mask; ``mixed`` pads the even rows left and the odd rows right."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    ids = torch.randint(5, 90, (len(lengths), width), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        is_left = side == "left" or (side == "mixed" and row % 2 == 0)
        mask[row, width - length if is_left else 0 : width if is_left else length] = 1
    return {"input_ids": ids * mask, "attention_mask": mask}


def close(found, expected, tolerance=1e-6):
    """Equal up to ``tolerance`` of the largest number, or of one."""
    scale = max(1.0, float(expected.abs().max()))
    return found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance * scale


def row_of(batch, row):
    return {name: value[row : row + 1] for name, value in batch.items()}


def tokens(states, mask):
    return states[mask.bool()]


def leave(run, left):
    """Rows other than these leave."""
    run.keep(torch.isin(run.rows, torch.tensor(left)))
