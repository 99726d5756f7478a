"""Modules for ``SentenceTransformer(modules=[...])``.

The file names here are a file format: saved models name their classes as ``st_plugins.modules.<file>.<Class>``.
"""

from st_plugins.modules.attention_pooling import AttentionPooling
from st_plugins.modules.bidirectional_transformer import BidirectionalTransformer
from st_plugins.modules.debias_projection import DebiasProjection
from st_plugins.modules.elastic_transformer import ElasticTransformer
from st_plugins.modules.fixed_dimensional_encoding import FixedDimensionalEncoder
from st_plugins.modules.folded_latent_attention_pooling import FoldedLatentAttentionPooling
from st_plugins.modules.interpolated_transformer import InterpolatedTransformer
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling
from st_plugins.modules.layer_alignment import LayerAlignment
from st_plugins.modules.multi_layer_pooling import MultiLayerPooling
from st_plugins.modules.product_quantization import ProductQuantization
from st_plugins.modules.prompt_reps import PromptReps
from st_plugins.modules.relative_representation import RelativeRepresentation
from st_plugins.modules.residual_binarization import ResidualBinarization
from st_plugins.modules.residual_map import ResidualMap
from st_plugins.modules.robust_normalizer import RobustNormalizer
from st_plugins.modules.self_extend_transformer import SelfExtendTransformer
from st_plugins.modules.truncation import Truncation

__all__ = [
    "AttentionPooling",
    "BidirectionalTransformer",
    "DebiasProjection",
    "ElasticTransformer",
    "FixedDimensionalEncoder",
    "FoldedLatentAttentionPooling",
    "InterpolatedTransformer",
    "LatentAttentionPooling",
    "LayerAlignment",
    "MultiLayerPooling",
    "ProductQuantization",
    "PromptReps",
    "RelativeRepresentation",
    "ResidualBinarization",
    "ResidualMap",
    "RobustNormalizer",
    "SelfExtendTransformer",
    "Truncation",
]
