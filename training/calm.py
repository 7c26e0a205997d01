"""The last step: everyday sentences are no refusals, and everything else stays as it was judged before.

Only the head learns (the pooler and the last layer), on what the encoder makes of a text's first token. That is worked
out once, so the step takes minutes, and the encoder's weights stay to the bit what they were. Everyday rows have
labels; on all other rows the model is taught its own opinion (self-distillation), so that little else moves.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.data import NOISY, SYNTHETIC, TRANSFER, Row, Split
from training.everyday import everyday_rows
from training.opinions import made_of

Report = Callable[[str], None]

_TOKENS_PER_BATCH = 3072


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of the step, chosen by validation rows and by the everyday sentences that are not held back."""

    everyday: int = 2400
    """Everyday rows, a quarter of them refusals of like wording."""
    everyday_weight: float = 0.15
    transfer: int = 2400
    """Texts of `training.transfer` on which the model keeps its opinion."""
    noisy_share: float = 0.35
    synthetic_share: float = 0.4
    """Shares of those sources' rows, which are many and alike, on which it does so too."""
    certain: float = 0.99
    """Target of an everyday row's label."""
    epochs: int = 15
    learning_rate: float = 3e-3
    """Falls to zero."""
    batch: int = 64
    max_length: int = 512
    seed: int = 7
    transfer_seed: int = 99
    kept_seed: int = 5
    """Of everyday rows and of training, of the transfer texts, and of which rows the model keeps its opinion on."""


def calm(model: Any, tokenizer: Any, split: Split, recipe: Recipe, report: Report) -> None:
    """Teach the head of ``model``, a BERT classifier, in place. ``split``: labelled and synthetic rows."""
    everyday = [Row(text, label, "everyday") for text, label in everyday_rows(recipe.seed, recipe.everyday)]
    texts = [row.text for row in [*everyday, *_kept(split, recipe)]]
    report(f"calming: the encoder reads {len(texts)} texts")
    features = first_tokens(model, tokenizer, texts, recipe.max_length, report)
    targets = logits(model, features).softmax(dim=1)
    for place, row in enumerate(everyday):
        targets[place, row.label], targets[place, 1 - row.label] = recipe.certain, 1 - recipe.certain
    weights = torch.ones(len(texts))
    weights[: len(everyday)] = recipe.everyday_weight
    _learn(model, features, targets * weights[:, None], recipe)


def _kept(split: Split, recipe: Recipe) -> list[Row]:
    """Rows on which the model keeps its opinion."""
    rng = random.Random(recipe.kept_seed)
    labelled = [row for row in split.train if row.source != SYNTHETIC]
    kept = [row for row in labelled if row.source != NOISY or rng.random() < recipe.noisy_share]
    kept += [row for row in split.train if row.source == SYNTHETIC and rng.random() < recipe.synthetic_share]
    return kept + [Row(text, 0, TRANSFER) for text in made_of(split.train, recipe.transfer, recipe.transfer_seed)]


def first_tokens(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, report: Report | None = None
) -> torch.Tensor:
    """What the last layer makes of the first token of each text, [texts, hidden]."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    result = torch.zeros(len(encoded), model.config.hidden_size)
    done, read, told, total = 0, 0, 0.0, sum(map(len, encoded))
    model.eval()
    with torch.no_grad():
        while done < len(order):
            batch = order[done : done + max(1, _TOKENS_PER_BATCH // (len(encoded[order[done]]) + 8))]
            inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
            result[batch] = model.bert(**inputs).last_hidden_state[:, 0]
            done += len(batch)
            read += sum(len(encoded[i]) for i in batch)
            if report and read / total >= told + 0.1:
                told = read / total
                report(f"{done} of {len(order)} texts, {told:.0%} of their tokens")
    return result


def logits(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Raw scores [texts, labels] of what :func:`first_tokens` gave."""
    with torch.no_grad():
        return _head(model, features)


def _head(model: Any, features: torch.Tensor) -> torch.Tensor:
    scores: torch.Tensor = model.classifier(torch.tanh(model.bert.pooler.dense(features)))
    return scores


def _learn(model: Any, features: torch.Tensor, targets: torch.Tensor, recipe: Recipe) -> None:
    """Train the head to give ``targets``, [texts, labels], each row of which adds up to that text's weight."""
    torch.manual_seed(recipe.seed)
    optimizer = torch.optim.Adam([*model.bert.pooler.parameters(), *model.classifier.parameters()])
    step, steps = 0, recipe.epochs * -(-len(features) // recipe.batch)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(features)).split(recipe.batch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 - step / steps)
            scores = _head(model, features[batch])
            loss = -(targets[batch] * scores.log_softmax(dim=1)).sum(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
