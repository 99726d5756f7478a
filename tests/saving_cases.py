"""What every model must survive: the batch of one, the disk, and the question who it is."""

import numpy as np

import st_plugins


def check_saved_and_loaded(model, texts, folder):
    """The vectors of a text alone, of all, and of all once saved and loaded; and the fingerprint. Gives the vectors."""
    vectors = model.encode(texts)
    assert np.allclose(model.encode(texts[2]), vectors[2], atol=1e-5)
    model.save_pretrained(str(folder))
    again = st_plugins.load(folder, device="cpu")
    assert np.array_equal(again.encode(texts), vectors)
    assert st_plugins.fingerprint(again) == st_plugins.fingerprint(model)
    return vectors
