"""One call of a network in which every text leaves at the layer its policy says. It holds nothing beyond that call."""

from typing import Any

import torch
from torch import Tensor, nn

from st_plugins.exit_criteria import masked_mean
from st_plugins.exit_policies import ExitPolicy
from st_plugins.stages import StagedRun


class ExitRun(nn.Module):
    """Stands in for a Hugging Face model for one call, and says afterwards where each row left.

    Rows run together as long as they are there; blocks are run on those that are left. A row leaves at the first of the
    policy's layers where its score reaches the threshold. Its layer and its states are its own: other rows, their order
    and the padding change them by rounding only, and the layer only where rounding carries a score over the threshold.

    Args:
        network: The model to run.
        policy: Criterion and threshold.
        layers: The exits of this call, ascending; the policy's, or the first of them and a last one.

    Attributes:
        exit_layer: (B,) after the call.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> from st_plugins.exit_criteria import Saturation
        >>> run = ExitRun(model[0].model, ExitPolicy("mine", Saturation(), 0.5, (1, 2, 6)), (1, 2, 6))
        >>> inputs = model.tokenizer(["One", "Two or more"], padding=True, return_tensors="pt")
        >>> run(**inputs)["last_hidden_state"].shape
        torch.Size([2, 5, 384])
        >>> run.exit_layer.tolist()
        [2, 2]
    """

    exit_layer: Tensor

    def __init__(self, network: nn.Module, policy: ExitPolicy, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        self.policy = policy
        self.layers = layers

    def forward(self, **inputs: Any) -> dict[str, Tensor]:  # what the network takes
        """Run all rows.

        Returns:
            dict: ``last_hidden_state`` (B, T, D), each row as of the layer it left at, zeros where there is no token.
        """
        run = StagedRun(self.network, inputs)
        ids = inputs["input_ids"]
        tokens = inputs.get("attention_mask", torch.ones_like(ids)).bool()  # (B, T)
        lengths = tokens.sum(dim=1)
        exit_layer = torch.empty_like(run.rows)
        output: Tensor | None = None
        pooled: Tensor | None = None  # (J, B', D) of the rows that are left
        for layer in self.layers:
            states, mask = run.to(layer)  # (B', T', D), (B', T')
            if output is None:
                output = states.new_zeros(*ids.shape, states.shape[-1])
            if layer == self.layers[-1]:
                leaves = torch.ones_like(run.rows, dtype=torch.bool)
            else:
                here = masked_mean(states, mask)[None]
                pooled = here if pooled is None else torch.cat([pooled, here])
                leaves = self.policy.criterion.score(pooled, lengths[run.rows]) >= self.policy.threshold
            count = int(leaves.sum())
            if not count:
                continue
            leaving = run.rows[leaves]
            exit_layer[leaving] = layer
            # The columns of a run are fewer than those of the inputs, but the tokens come in the same order.
            places = torch.zeros_like(tokens)
            places[leaving] = tokens[leaving]
            output[places] = states[leaves][mask[leaves].bool()]
            if count == len(leaves):
                break
            run.keep(~leaves)
            pooled = pooled if pooled is None else pooled[:, ~leaves]
        self.exit_layer = exit_layer
        return {"last_hidden_state": output}
