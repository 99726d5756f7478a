"""Losses that train one model at many sizes, for the ordinary ``SentenceTransformerTrainer``."""

from st_plugins.losses.elastic import ElasticLoss
from st_plugins.losses.espresso import EspressoLoss
from st_plugins.losses.masked_autoencoder import MaskedAutoencoderLoss
from st_plugins.losses.starbucks import StarbucksLoss
from st_plugins.losses.two_d_matryoshka import TwoDMatryoshkaLoss

__all__ = ["ElasticLoss", "EspressoLoss", "MaskedAutoencoderLoss", "StarbucksLoss", "TwoDMatryoshkaLoss"]
