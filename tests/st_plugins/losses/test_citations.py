import re

import pytest

from st_plugins import losses
from st_plugins.losses import citations


@pytest.mark.parametrize(
    ("loss", "arxiv"),
    [
        (losses.ElasticLoss, "2402.14776"),
        (losses.TwoDMatryoshkaLoss, "2402.14776"),
        (losses.EspressoLoss, "2402.14776v2"),
        (losses.StarbucksLoss, "2410.13230"),
        (losses.MaskedAutoencoderLoss, "2410.13230"),
        (losses.GenerationRetrievalLoss, "2408.03402"),
        (losses.GivenNegativesLoss, "2405.17428"),
        (losses.SoftContrastiveLoss, "2410.18481"),
        (losses.FixedVectorCrossEntropyLoss, "2405.16153"),
        (losses.MixupContrastiveLoss, "2106.04990"),
        (losses.ManifoldInstanceMixupLoss, "2402.08777"),
        (losses.OrthogonalProjectionLoss, "2103.14021"),
        (losses.GuidedNegativesLoss, "2402.16829"),
        (losses.IndividualTemperatureLoss, "2305.11965"),
        (losses.MomentumQueueLoss, "2109.04380"),
    ],
)
def test_every_loss_cites_the_paper_that_its_docstring_names(loss, arxiv):
    assert re.search(rf"\b{arxiv}\b", loss.citation)
    assert f"https://arxiv.org/abs/{arxiv}" in loss.__doc__ or "2402.14776" in loss.__doc__


def test_entries_are_whole():
    for entry in (
        citations.TWO_D_MATRYOSHKA,
        citations.ESPRESSO,
        citations.STARBUCKS,
        citations.GENERATION_RETRIEVAL,
        citations.NV_EMBED,
        citations.DIALOG2FLOW,
        citations.DEFSENT_PLUS,
        citations.METRIX,
        citations.MANIFOLD_INSTANCE_MIXUP,
        citations.ORTHOGONAL_PROJECTION,
        citations.GIST,
        citations.INDIVIDUAL_TEMPERATURE,
        citations.MOMENTUM_QUEUE,
    ):
        assert re.fullmatch(r"\n@\w+\{\w+,\n(    \w+=\{.+\},?\n)+\}\n", entry)
