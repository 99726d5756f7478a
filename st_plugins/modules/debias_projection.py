"""Takes a few directions out of sentence embeddings, for instance that of gender."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from st_plugins.counts import check_counts
from st_plugins.errors import InputError, ShapeError, SizeError
from st_plugins.finite_vectors import check_finite
from st_plugins.weighted_module import WeightedModule


class DebiasProjection(WeightedModule):
    """Embeddings without their part in a subspace of ``num_directions`` directions; unit vectors come out.

    With G (k, D) the directions, orthonormal rows::

        e' = (e - G^T G e) / || e - G^T G e ||        so that G e' = 0

    The directions come from sets of texts that differ in nothing but the bias, see :meth:`from_sets`.

    This hides a bias from whoever looks along these directions, and removes little of it: texts that were stereotyped
    alike stay neighbours, and a classifier still tells them apart (Gonen and Goldberg, *Lipstick on a Pig*,
    https://arxiv.org/abs/1903.03862). It is no proof of fairness. Measure what matters to you, with
    :class:`~st_plugins.evaluation.WeatEvaluator` on other texts than those it was made from, and in your application.

    It goes behind the last module of a model. By hand it takes out the first k coordinates, until weights are loaded.

    Args:
        embedding_dimension: D.
        num_directions: k, from 1 to D - 1.

    Reads: ``sentence_embedding`` (B, D), of any length.

    Writes: ``sentence_embedding`` (B, D), of unit length; zeros where nothing is left.

    Raises:
        SizeError: If D or k cannot be.
        ShapeError: If the embeddings are not D wide.

    References:
        Bolukbasi et al., *Man is to Computer Programmer as Woman is to Homemaker? Debiasing Word Embeddings*,
        https://arxiv.org/abs/1607.06520: "neutralize", of every text. Of sentences with templates:
        Liang et al., *Towards Debiasing Sentence Representations*, https://arxiv.org/abs/2007.08100.

    Example:
        >>> pairs = torch.tensor([[[0.6, 0.8], [-0.6, 0.8]]])  # they differ in the first coordinate
        >>> debias = DebiasProjection.from_sets(pairs)
        >>> debias({"sentence_embedding": torch.tensor([[3.0, 4.0]])})["sentence_embedding"]
        tensor([[0., 1.]])
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_directions"]
    directions: Tensor  # G, (k, D)

    def __init__(self, embedding_dimension: int, num_directions: int = 1) -> None:
        super().__init__()
        check_counts("DebiasProjection", embedding_dimension=embedding_dimension, num_directions=num_directions)
        if num_directions >= embedding_dimension:
            raise SizeError(
                f"DebiasProjection needs fewer directions than coordinates, got num_directions={num_directions} and "
                f"embedding_dimension={embedding_dimension}. One direction is usual."
            )
        self.embedding_dimension = embedding_dimension
        self.num_directions = num_directions
        self.register_buffer("directions", torch.eye(num_directions, embedding_dimension))

    @classmethod
    def from_sets(cls, sets: Sequence[Tensor], num_directions: int = 1) -> Self:
        """One whose directions are the principal ones of how the members of sets differ.

        With mu_s the mean of set s, of unit vectors each, they are the first right singular vectors of all
        ``(e - mu_s) / sqrt(members of s)``, of sign such that the greatest coordinate is positive.

        Args:
            sets: Of embeddings (members, D) of texts that differ only in what is to be taken out: "he is a doctor",
                "she is a doctor". One tensor (sets, members, D) will do. Members in the same order make no difference.
            num_directions: k.

        Returns:
            DebiasProjection: See the class.

        Raises:
            ShapeError: If there is no set, or one is not of such a shape, or has one member only.
            NonFiniteError: If an embedding holds NaN or infinity.
            SizeError: If the sets do not differ in so many directions.
        """
        if not len(sets):
            raise ShapeError(
                "There must be at least one set of embeddings, got none. Embed texts that differ in one word."
            )
        for members in sets:
            if members.ndim != 2 or len(members) < 2:
                raise ShapeError(
                    "Every set must hold the embeddings of at least two texts, of shape (members, embedding "
                    f"dimension), got {tuple(members.shape)}. Embed texts that differ in one word."
                )
            check_finite({"sentence_embedding": members})
        units = [F.normalize(members.detach().double(), dim=-1) for members in sets]
        rows = torch.cat([(unit - unit.mean(dim=0)) / len(unit) ** 0.5 for unit in units])  # (all members, D)
        projection = cls(rows.shape[1], num_directions)
        _, values, directions = torch.linalg.svd(rows, full_matrices=False)
        found = int((values > 1e-6 * values[0]).sum()) if values[0] > 0 else 0
        if found < num_directions:
            raise SizeError(
                f"The sets must differ in at least num_directions={num_directions} directions, they differ in {found}. "
                "Give more sets, or take fewer directions."
            )
        directions = directions[:num_directions]
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))  # (k, 1)
        directions = (directions * largest.sign()).contiguous()
        projection.directions = directions.to(torch.promote_types(sets[0].dtype, torch.float32))
        return projection

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Take the directions out of every row; see the class."""
        embeddings = self.given_embeddings(features)
        vectors = F.normalize(embeddings.to(self.directions.dtype), dim=-1)
        rest = vectors - (vectors @ self.directions.T) @ self.directions  # (B, D)
        features["sentence_embedding"] = F.normalize(rest, dim=-1).to(embeddings.dtype)
        return features

    def equalize(self, members: Tensor) -> Tensor:
        """The members of one set, with nothing left to differ in but the directions, and there by equally much.

        With w the members at unit length, mu their mean, and w_G, mu_G the parts in the directions::

            w' = nu + sqrt(1 - ||nu||^2) (w_G - mu_G) / ||w_G - mu_G||        nu = mu - mu_G

        Every text that went through the projection then has one and the same cosine with all of them.

        Args:
            members: (members, D), two or more.

        Returns:
            Tensor: (members, D), of unit length.

        Raises:
            InputError: If a member has the part of the mean, so that nothing says to which side it belongs.
        """
        units = F.normalize(members.to(self.directions.dtype), dim=-1)
        inside = units @ self.directions.T  # (members, k)
        sides = inside - inside.mean(dim=0)
        lengths = sides.norm(dim=-1, keepdim=True)
        if bool((lengths <= 1e-6).any()):
            raise InputError(
                "The members of a set must differ along the directions, got one that is where their mean is. "
                "Leave it out of equalize."
            )
        mean = units.mean(dim=0)
        shared = mean - (mean @ self.directions.T) @ self.directions  # nu, (D,)
        height = (1 - shared.square().sum()).clamp_min(0).sqrt()
        return (shared + height * (sides / lengths) @ self.directions).to(members.dtype)
