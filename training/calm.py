"""The last step: everyday sentences are no refusals, and everything else stays as it was judged before.

Only the head learns (the pooler and the last layer), on what the encoder makes of a text's first token, in int8 as it
is served. That is worked out once, so the step takes minutes, and the encoder stays to the bit what it was. Everyday
rows have labels; on all other rows the model is taught its own opinion (self-distillation), so that little else moves.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.data import Row, Split
from training.everyday import everyday_rows
from training.finetune import mean
from training.opinions import made_of
from training.served import Served

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of the step, chosen by validation rows and by the everyday sentences that are not held back."""

    everyday: int = 4000
    """Everyday rows, a quarter of them refusals of like wording."""
    everyday_weight: float = 0.24
    transfer: int = 4000
    """Texts of `training.transfer` on which the model keeps its opinion, as on all training rows."""
    certain: float = 0.95
    """Target of an everyday row's label."""
    epochs: int = 15
    learning_rate: float = 3e-3
    """Falls to zero."""
    batch: int = 128
    runs: int = 5
    """Each sees the rows in another order; the mean of their weights is taken."""
    max_length: int = 512
    seed: int = 7
    transfer_seed: int = 99
    """Of everyday rows and of the first run, and of the transfer texts."""


def calm(model: Any, served: Served, split: Split, recipe: Recipe, report: Report) -> None:
    """Teach the head of ``model``, a BERT classifier, in place.

    ``served``: the int8 form of its encoder; ``split``: labelled and synthetic rows.
    """
    everyday = [Row(text, label, "everyday") for text, label in everyday_rows(recipe.seed, recipe.everyday)]
    kept = [row.text for row in split.train] + made_of(split.train, recipe.transfer, recipe.transfer_seed)
    texts = [*(row.text for row in everyday), *kept]
    report(f"calming: the encoder reads {len(texts)} texts")
    features = torch.from_numpy(served.first_tokens(texts, recipe.max_length, report)).float()
    targets = logits(model, features).softmax(dim=1)
    for place, row in enumerate(everyday):
        targets[place, row.label], targets[place, 1 - row.label] = recipe.certain, 1 - recipe.certain
    weights = torch.ones(len(texts))
    weights[: len(everyday)] = recipe.everyday_weight
    head, learnt = _head(model), []
    for run in range(recipe.runs):
        report(f"calming: run {run + 1} of {recipe.runs}")
        learnt.append(_learnt(head, features, targets * weights[:, None], recipe, recipe.seed + run))
    head.load_state_dict(mean(learnt))


def logits(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Raw scores [texts, labels] of what the encoder made of first tokens, [texts, hidden]."""
    with torch.no_grad():
        scores: torch.Tensor = _head(model)(features)
    return scores


def _head(model: Any) -> torch.nn.Module:
    """The layers that learn, the model's own."""
    return torch.nn.Sequential(model.bert.pooler.dense, torch.nn.Tanh(), model.classifier)


def _learnt(
    start: torch.nn.Module, features: torch.Tensor, targets: torch.Tensor, recipe: Recipe, seed: int
) -> dict[str, torch.Tensor]:
    """Weights of a head that gives ``targets``, [texts, labels], each row of which adds up to that text's weight."""
    torch.manual_seed(seed)
    head = copy.deepcopy(start)
    optimizer = torch.optim.Adam(head.parameters())
    step, steps = 0, recipe.epochs * -(-len(features) // recipe.batch)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(features)).split(recipe.batch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 - step / steps)
            scores = head(features[batch])
            loss = -(targets[batch] * scores.log_softmax(dim=1)).sum(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    learnt: dict[str, torch.Tensor] = head.state_dict()
    return learnt
