"""Losses for the ordinary ``SentenceTransformerTrainer``: one model at many sizes, masked text, decoders."""

from st_plugins.losses.elastic import ElasticLoss
from st_plugins.losses.espresso import EspressoLoss
from st_plugins.losses.generation_retrieval import GenerationRetrievalLoss
from st_plugins.losses.given_negatives import GivenNegativesLoss
from st_plugins.losses.masked_autoencoder import MaskedAutoencoderLoss
from st_plugins.losses.starbucks import StarbucksLoss
from st_plugins.losses.two_d_matryoshka import TwoDMatryoshkaLoss

__all__ = [
    "ElasticLoss",
    "EspressoLoss",
    "GenerationRetrievalLoss",
    "GivenNegativesLoss",
    "MaskedAutoencoderLoss",
    "StarbucksLoss",
    "TwoDMatryoshkaLoss",
]
