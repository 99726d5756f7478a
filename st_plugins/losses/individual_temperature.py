"""A contrastive loss in which every training example has a temperature of its own, learned with the model (iSogCLR)."""

import math
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.candidates import candidate_cosines
from st_plugins.losses.citations import INDIVIDUAL_TEMPERATURE
from st_plugins.losses.stateful import StatefulLoss, of_all_devices

# The authors' bound on one gradient of a temperature: an average that lags behind can make it huge.
_STEEPEST = 5.0


class IndividualTemperatureLoss(StatefulLoss):
    """Anchors find their positives in the batch, frequent kinds of examples at a high temperature, rare ones at a low.

    With s the cosine, x_i the anchor of example i, p_i its positive, z its n negatives (all other texts of the batch
    but the anchors) and t_i its temperature, h_i(z) = s(x_i, z) - s(x_i, p_i), and the loss of a batch is::

        mean over i of  t_i log u_i + t_i rho

        g_i = mean over z of exp(h_i(z) / t_i)
        u_i = (1 - average_rate) u_i + average_rate g_i               at the first visit g_i

    u_i estimates the mean over all negatives of the dataset from those of a few batches. Its gradient is taken through
    g_i: mean over i and z of exp(h_i(z) / t_i) / u_i * h_i(z) with the factor before h held fixed. After each batch::

        slope_i = log u_i + rho - mean over z of exp(h_i(z) / t_i) / u_i * h_i(z) / t_i
        v_i     = (1 - momentum_rate) v_i + momentum_rate slope_i
        t_i     = t_i - temperature_rate v_i                          within [lowest, highest]

    Where u_i = g_i, slope_i is rho - KL(softmax(h_i / t_i) || uniform). So each example takes the temperature at which
    its negatives are weighted unevenly by rho nats: one with many near negatives a high one, which forgives them.

    Args:
        model: The model that is trained.
        num_examples: Rows of the training dataset.
        rho: How unevenly, >= 0, below log(n): no weights of n negatives are that uneven, and all temperatures would
            fall to the lowest. The authors take 0.1 to 0.5 within one kind of data, and 6 to 8 between two.
        initial: Temperature of an example before its first visit.
        lowest: No temperature is below; > 0.
        highest: No temperature is above.
        temperature_rate: Learning rate of the temperatures, >= 0; 0 keeps them.
        average_rate: Share of the batch in u, in (0, 1].
        momentum_rate: Share of the batch in v, in (0, 1].
        mini_batch_size: If given, gradients are cached (GradCache): memory is that of a batch of this many texts.
        gather_across_devices: Whether a batch is that of all devices together. What is remembered is in any case.

    Attributes:
        temperatures: (num_examples,), what was learned; read it to see which examples are of a frequent kind.

    Inputs:
        +-------------------------------------------------+---------------------------------------------------------+
        | Columns                                         | Label                                                   |
        +=================================================+=========================================================+
        | (anchor, positive, negative_1, ..., negative_N) | the number of the row in the dataset, an integer from 0 |
        +-------------------------------------------------+---------------------------------------------------------+

    Requirements:
        The column of numbers: ``dataset.add_column("label", range(len(dataset)))``. Resumed trainings:
        :class:`~st_plugins.training.LossStateCallback`. An evaluation of this loss knows no examples: it is that of
        one batch at the temperature ``initial``.

    Relations:
        With ``average_rate=1``, ``temperature_rate=0`` and ``rho=0`` it is InfoNCE without the positive in the
        denominator, times the temperature. Prefer ``MultipleNegativesRankingLoss`` where batches are large and kinds of
        examples about as frequent.

    Raises:
        LossError: If an option is out of range; in training, if ``rho`` is too high for the first batch, labels are no
            numbers of rows, a number comes twice in a batch, or as :class:`StatefulLoss`.

    References:
        Qiu et al., *Not All Semantics are Created Equal*, https://arxiv.org/abs/2305.11965, algorithm 1 (iSogCLR). One
        direction, as the host's ranking loss; the paper's image and text losses are two of it. Kept as log u, so that
        no exponential overflows. Differs from the LibAUC code, whose second version sums over negatives where this has
        the mean, and counts the positive among them.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> numbered = pairs.add_column("label", range(len(pairs)))
        >>> loss = IndividualTemperatureLoss(model, num_examples=len(numbered), rho=0.3)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=numbered, loss=loss)
        >>> loss.temperatures
        tensor([0.1000, 0.1000])
    """

    citation = INDIVIDUAL_TEMPERATURE
    temperatures: Tensor
    log_averages: Tensor
    momenta: Tensor

    def __init__(
        self,
        model: SentenceTransformer,
        num_examples: int,
        *,
        rho: float = 0.3,
        initial: float = 0.1,
        lowest: float = 0.05,
        highest: float = 0.7,
        temperature_rate: float = 0.01,
        average_rate: float = 0.9,
        momentum_rate: float = 0.9,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        if not isinstance(num_examples, int) or num_examples < 1:
            raise LossError(f"num_examples must be the number of rows of the dataset, got {num_examples!r}.")
        if not 0 < lowest <= initial <= highest < math.inf:
            raise LossError(
                f"Temperatures must satisfy 0 < lowest <= initial <= highest, got {lowest}, {initial} and {highest}."
            )
        for name, rate in (("average_rate", average_rate), ("momentum_rate", momentum_rate)):
            if not 0 < rate <= 1:
                raise LossError(f"{name} must be in (0, 1], got {rate!r}.")
        for name, value in (("rho", rho), ("temperature_rate", temperature_rate)):
            if not 0 <= value < math.inf:
                raise LossError(f"{name} must be a number >= 0, got {value!r}.")
        self.rho = rho
        self.initial, self.lowest, self.highest = initial, lowest, highest
        self.temperature_rate = temperature_rate
        self.average_rate = average_rate
        self.momentum_rate = momentum_rate
        self.register_buffer("temperatures", torch.full((num_examples,), float(initial)))
        self.register_buffer("log_averages", torch.full((num_examples,), -math.inf))  # -inf: never visited
        self.register_buffer("momenta", torch.zeros(num_examples))

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`EmbeddingLoss`; ``labels`` (B,) are the numbers of the rows."""
        scores = candidate_cosines(columns)  # (B, N)
        own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
        leads = (scores - scores.diagonal()[:, None])[~own].view(len(scores), -1)  # h: (B, n)
        if self.is_learning and not self._has_seen_a_batch:
            self._check_first_batch(leads.shape[1])
        if leads.shape[1] == 0:
            return scores.sum() * 0
        if not self.is_learning:
            return (self.initial * (log_mean_exp(leads / self.initial) + self.rho)).mean()
        rows = self._rows(labels, len(scores))
        temperatures = self.temperatures[rows].to(leads.dtype)
        log_averages = self._averaged(rows, leads.detach(), temperatures)
        # The factor is at most n / average_rate, however far the average lags behind.
        weighted = torch.exp(leads.detach() / temperatures[:, None] - log_averages[:, None]) * leads  # (B, n)
        slopes = log_averages + self.rho - weighted.detach().mean(dim=1) / temperatures
        self._learn(rows, log_averages, slopes)
        value = (temperatures * (log_averages + self.rho)).mean()
        surrogate = weighted.mean()
        return value + surrogate - surrogate.detach()

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {
            "num_examples": len(self.temperatures),
            "rho": self.rho,
            "initial": self.initial,
            "lowest": self.lowest,
            "highest": self.highest,
            "temperature_rate": self.temperature_rate,
            "average_rate": self.average_rate,
            "momentum_rate": self.momentum_rate,
        }

    def _averaged(self, rows: Tensor, leads: Tensor, temperatures: Tensor) -> Tensor:
        """The logarithms (B,) of u after this batch."""
        fresh = log_mean_exp(leads / temperatures[:, None])
        old = self.log_averages[rows].to(leads.dtype)
        rate = self.average_rate
        if rate == 1:
            return fresh
        return torch.where(
            old.isinf(), fresh, torch.logaddexp(math.log(1 - rate) + old, math.log(rate) + fresh)
        )  # (B,)

    def _learn(self, rows: Tensor, log_averages: Tensor, slopes: Tensor) -> None:
        """Remember this batch, the same on every device."""
        momenta = (1 - self.momentum_rate) * self.momenta[rows] + self.momentum_rate * slopes.clamp(
            -_STEEPEST, _STEEPEST
        )
        temperatures = (self.temperatures[rows] - self.temperature_rate * momenta).clamp(self.lowest, self.highest)
        learned = [rows, log_averages, momenta, temperatures]
        rows, *values = learned if self.gather_across_devices else map(of_all_devices, learned)
        # The sampler of several devices fills up the last batch with rows of others: the first one counts.
        rows, where = torch.unique(rows, return_inverse=True)
        places = torch.arange(len(where), device=where.device)
        first = torch.full_like(rows, len(where)).scatter_reduce(0, where, places, "amin")
        for state, value in zip((self.log_averages, self.momenta, self.temperatures), values, strict=True):
            state[rows] = value[first].to(state.dtype)

    def _rows(self, labels: Tensor | None, count: int) -> Tensor:
        """The numbers (B,) of the rows in the dataset."""
        if labels is None or labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
            got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise LossError(
                f"labels must be the numbers of the rows in the dataset, integers of shape ({count},), got {got}. "
                'Add them with dataset.add_column("label", range(len(dataset))).'
            )
        low, high, distinct = int(labels.min()), int(labels.max()), len(torch.unique(labels))
        if low < 0 or high >= len(self.temperatures) or distinct < count:
            raise LossError(
                f"labels must be different numbers of rows, from 0 to {len(self.temperatures) - 1}, got {distinct} "
                f"different ones from {low} to {high} for {count} rows. Set num_examples to len(dataset), and add them "
                'with dataset.add_column("label", range(len(dataset))).'
            )
        return labels.long()

    def _check_first_batch(self, negatives: int) -> None:
        if negatives > 0 and self.temperature_rate > 0 and self.rho >= math.log(negatives):
            raise LossError(
                f"rho must be below log(negatives), {math.log(negatives):.3g} for the {negatives} of this batch, got "
                f"{self.rho}: every temperature would fall to the lowest. Take a lower rho or a larger batch."
            )


def log_mean_exp(values: Tensor) -> Tensor:
    """log(mean(exp(values))) over the last dimension, without overflow.

    Example:
        >>> log_mean_exp(torch.tensor([[1000.0, 1000.0]]))
        tensor([1000.])
    """
    return torch.logsumexp(values, dim=-1) - math.log(values.shape[-1])
