"""The texts that lower precisions are fitted to, as inputs of a graph. Nothing here looks at labels."""

from collections.abc import Iterable, Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import InputError
from st_plugins_export.padded_static import with_padded_inputs

# Short and long, questions and statements, several fields and scripts: activations differ more between kinds of text
# than between texts of a kind.
CALIBRATION_TEXTS = (
    "weather tomorrow",
    "How do I sort a list of dictionaries by one of their keys?",
    "cheap flights from Lisbon to Nairobi in March",
    "The committee met on Tuesday and postponed its decision about the new bridge until the autumn.",
    "Vitamin D deficiency was found in 41 of 120 patients with chronic kidney disease (p < 0.01).",
    "def area(radius): return 3.14159 * radius ** 2",
    "Who wrote the opera about the barber of Seville, and when was it first performed?",
    "A man in a red jacket is riding a bicycle down a muddy hill.",
    "Two dogs are playing with a tennis ball on the beach.",
    "best way to remove coffee stains from a white shirt",
    "The defendant shall pay the plaintiff damages of $12,500 plus interest from the date of judgment.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen; it happens in the chloroplasts of "
    "green plants, and almost all life on earth depends on it directly or indirectly.",
    "I ordered the blue one two weeks ago and it still has not arrived. Could you please check where it is?",
    "The expansion of the universe was inferred from the red shift of distant galaxies, whose light reaches us at "
    "longer wavelengths the farther away they are. Measurements of supernovae later showed that the expansion "
    "accelerates, which is ascribed to a form of energy whose nature is unknown.",
    "NullPointerException when the cache is empty",
    "Stir the flour into the melted butter, add the milk slowly, and let it simmer for ten minutes.",
    "What is the difference between a virus and a bacterium?",
    "Shares of the company fell 7.3% after it lowered its forecast for the fourth quarter.",
    "Der Zug nach Hamburg fährt heute von Gleis neun ab.",
    "La biblioteca abre a las nueve de la mañana y cierra a las ocho.",
    "Les élèves ont planté trente arbres dans la cour de l'école.",
    "Вчера вечером в городе прошёл сильный дождь.",
    "今日はとても天気がいいので、公園を散歩しました。",
    "The battery lasts about nine hours, the screen is bright, but the keyboard feels cheap.",
    "In 1911 the expedition reached the South Pole, five weeks ahead of its rivals, and all of its members came home; "
    "the others, delayed by bad weather and short of food, did not. Historians have argued ever since how much was "
    "luck, how much the choice of dogs over ponies, and how much the careful laying of depots along the way.",
    "She plays the violin in the city orchestra and teaches at the school of music.",
    "is it safe to take ibuprofen with antibiotics",
    "The treaty was signed by thirty-one states and came into force after the tenth ratification.",
    "Error 404: the page you are looking for has been moved or does not exist.",
    "Turn left at the church, go straight on for about two hundred metres, and you will see the station on your right.",
    "mitochondrial DNA inheritance",
    "Happy birthday! 🎉 Hope you have a wonderful day with your family.",
)
_ROWS = 8


def checked_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts, if they are such.

    Raises:
        InputError: If there is none, or one is no text.
    """
    found = () if isinstance(texts, str) else tuple(texts)
    if not found or not all(isinstance(text, str) for text in found):
        raise InputError(
            f"calibration_texts must be a list of at least one text, got {texts!r:.60}. Give some like those you embed."
        )
    return found


def calibration_batches(
    model: SentenceTransformer, texts: Sequence[str], layers: Sequence[int] | None = None
) -> list[dict[str, np.ndarray]]:
    """Inputs of the graphs of a model, eight texts to a batch, the shorter ones first.

    Args:
        model: Plain.
        texts: To tokenize. Batches without any token are left out.
        layers: Give each batch a column ``layer`` too, in which these take turns.

    Returns:
        list: By name, each (B, T) int64, ``layer`` (B,).

    Raises:
        InputError: If no text has a token.
    """
    model, ordered = with_padded_inputs(model), sorted(texts, key=len)
    batches = []
    for start in range(0, len(ordered), _ROWS):
        features = model.preprocess(ordered[start : start + _ROWS])
        batch = {name: value.numpy() for name, value in features.items() if isinstance(value, Tensor)}
        if not batch["attention_mask"].any():  # the words of a StaticEmbedding are none of these
            continue
        if layers is not None:
            batch["layer"] = np.resize(np.asarray(layers, dtype=np.int64), len(batch["input_ids"]))
        batches.append(batch)
    if not batches:
        raise InputError(
            "The tokenizer must know a word of calibration_texts, and knows none. Give some that you embed."
        )
    return batches
