"""An ElasticLoss of four sizes."""

from sentence_transformers.sentence_transformer import losses as host

from st_plugins.losses import ElasticLoss

SIZES = [(1, 4), (2, 8), (3, 16), (4, 8)]


def build(model, **options):
    return ElasticLoss(model, host.MultipleNegativesRankingLoss(model), **{"sizes": SIZES, **options})
