"""Losses for the ordinary ``SentenceTransformerTrainer``: many sizes, pairs, classes, masked text, decoders."""

from st_plugins.losses.class_vectors import class_means, simplex_vertices
from st_plugins.losses.elastic import ElasticLoss
from st_plugins.losses.espresso import EspressoLoss
from st_plugins.losses.fixed_vector_cross_entropy import FixedVectorCrossEntropyLoss
from st_plugins.losses.generation_retrieval import GenerationRetrievalLoss
from st_plugins.losses.given_negatives import GivenNegativesLoss
from st_plugins.losses.guided_negatives import GuidedNegativesLoss
from st_plugins.losses.index_ranking import IndexRankingLoss
from st_plugins.losses.individual_temperature import IndividualTemperatureLoss
from st_plugins.losses.manifold_instance_mixup import ManifoldInstanceMixupLoss
from st_plugins.losses.masked_autoencoder import MaskedAutoencoderLoss
from st_plugins.losses.mixup_contrastive import MixupContrastiveLoss
from st_plugins.losses.momentum_queue import MomentumQueueLoss
from st_plugins.losses.orthogonal_projection import OrthogonalProjectionLoss
from st_plugins.losses.quantization import QuantizationLoss
from st_plugins.losses.soft_contrastive import SoftContrastiveLoss
from st_plugins.losses.starbucks import StarbucksLoss
from st_plugins.losses.two_d_matryoshka import TwoDMatryoshkaLoss

__all__ = [
    "ElasticLoss",
    "EspressoLoss",
    "FixedVectorCrossEntropyLoss",
    "GenerationRetrievalLoss",
    "GivenNegativesLoss",
    "GuidedNegativesLoss",
    "IndexRankingLoss",
    "IndividualTemperatureLoss",
    "ManifoldInstanceMixupLoss",
    "MaskedAutoencoderLoss",
    "MixupContrastiveLoss",
    "MomentumQueueLoss",
    "OrthogonalProjectionLoss",
    "QuantizationLoss",
    "SoftContrastiveLoss",
    "StarbucksLoss",
    "TwoDMatryoshkaLoss",
    "class_means",
    "simplex_vertices",
]
