"""Fine-tunes the base encoder to tell refusals from answers, on the CPU, with a fixed seed."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from training.data import NOISY, SYNTHETIC, TRANSFER, Row, Split, family, varied
from training.metrics import Floats, scores

LABELS = ("NORMAL", "REJECTION")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of the training run. None was chosen on the test file."""

    epochs: int = 4
    learning_rate: float = 5e-5
    head_learning_rate: float = 5e-4
    """The classification head starts random, the encoder does not."""
    weight_decay: float = 0.01
    warmup_share: float = 0.06
    tokens_per_batch: int = 3072
    """Padded tokens of a batch: batches hold rows of similar length, so many short or few long ones."""
    max_rows_per_batch: int = 32
    max_length: int = 256
    """Tokens of a training row. Whoever refuses does so early; judging uses the model's whole length."""
    noisy_weight: float = 0.4
    """Weight of a row of the source whose labels are noisy and count partial refusals as refusals."""
    noisy_share: float = 0.3
    """Share of that source's rows that an epoch draws: they are many, and alike."""
    synthetic_weight: float = 0.5
    noisy_smoothing: float = 0.1
    smoothing: float = 0.02
    transfer_share: float = 0.5
    seed: int = 20261122

    def share(self, row: Row) -> float:
        """Share of the rows like this one that an epoch draws."""
        return {NOISY: self.noisy_share, TRANSFER: self.transfer_share}.get(row.source, 1.0)


def load_base(folder: Path) -> tuple[Any, Any]:
    """The base encoder with a new two-label head, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        dtype=torch.float32,
        attention_probs_dropout_prob=0.0,  # random numbers for it take a third of the time on a CPU
    )
    return model, tokenizer


def averaged(folders: Sequence[Path]) -> tuple[Any, Any]:
    """The model whose weights are the mean of the checkpoints', all fine-tuned from the same start, and its tokenizer.

    A mean of such models errs less than each of them (Wortsman et al. 2022, "Model soups").
    """
    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in folders]
    models[0].load_state_dict(mean([model.state_dict() for model in models]))
    return models[0], AutoTokenizer.from_pretrained(folders[0])


def mean(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Weights whose every tensor is the mean of what the states hold under its name; whole numbers are the first's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if tensor.is_floating_point() else tensor
        for name, tensor in states[0].items()
    }


def seed_all(seed: int) -> None:
    """Make what follows repeatable, the new head's random weights included."""
    torch.manual_seed(seed)
    random.seed(seed)


def scale_logits(model: Any, factor: float) -> None:
    """Multiply the model's logits by ``factor``, in its last layer."""
    with torch.no_grad():
        model.classifier.weight *= factor
        model.classifier.bias *= factor


def _batches(lengths: Sequence[int], recipe: Recipe, rng: random.Random) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.9, 1.1))
    batches: list[list[int]] = [[]]
    for i in order:
        longest = max([lengths[j] for j in batches[-1]] + [lengths[i]])
        if batches[-1] and (
            longest * (len(batches[-1]) + 1) > recipe.tokens_per_batch or len(batches[-1]) == recipe.max_rows_per_batch
        ):
            batches.append([])
        batches[-1].append(i)
    rng.shuffle(batches)
    return batches


def logits_of(model: Any, tokenizer: Any, texts: Sequence[str], max_length: int = 512) -> Floats:
    """Raw scores [texts, labels] of the float32 model, one text at a time."""
    model.eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
            rows.append(model(**inputs).logits[0].numpy())
    return np.asarray(rows, dtype=np.float64)


def finetune(model: Any, tokenizer: Any, split: Split, recipe: Recipe, report: Callable[[str], None]) -> dict[str, Any]:
    """Train in place and keep the weights of the best epoch by mean F1 over the validation sources.

    Returns the history: per epoch the loss and the validation F1 of each source.
    """
    rng = random.Random(recipe.seed)
    head = [p for n, p in model.named_parameters() if n.startswith(("classifier", "bert.pooler"))]
    body = [p for n, p in model.named_parameters() if not n.startswith(("classifier", "bert.pooler"))]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": recipe.learning_rate}, {"params": head, "lr": recipe.head_learning_rate}],
        weight_decay=recipe.weight_decay,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    history: dict[str, Any] = {"epochs": []}
    done_share = 0.0
    started = time.monotonic()
    for epoch in range(recipe.epochs):
        drawn = [row for row in split.train if recipe.share(row) == 1 or rng.random() < recipe.share(row)]
        rows = [row if row.source == TRANSFER else varied(row, rng) for row in drawn]
        encoded = tokenizer([row.text for row in rows], truncation=True, max_length=recipe.max_length)["input_ids"]
        batches = _batches([len(ids) for ids in encoded], recipe, rng)
        total, seen, said = 0.0, 0, time.monotonic()
        model.train()
        for number, batch in enumerate(batches):
            done_share = (epoch + number / len(batches)) / recipe.epochs
            slope = min(1.0, done_share / recipe.warmup_share, (1 - done_share) / (1 - recipe.warmup_share))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * slope
            inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
            chosen = [rows[i] for i in batch]
            logits = model(**inputs).logits
            loss = _loss(logits, chosen, recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total, seen = total + loss.item() * len(batch), seen + len(batch)
            if time.monotonic() - said > 20:
                said = time.monotonic()
                done = (epoch + (number + 1) / len(batches)) / recipe.epochs
                left = (said - started) / done * (1 - done)
                where = f"epoch {epoch + 1}/{recipe.epochs} {seen}/{len(rows)}"
                report(f"{where} loss {total / seen:.4f}, {left / 60:.0f} min left")
        texts = [row.text for row in split.validation]
        by_source = f1_by_source(split.validation, logits_of(model, tokenizer, texts, recipe.max_length))
        mean = sum(by_source.values()) / len(by_source)
        history["epochs"].append({"loss": total / seen, "validation_f1": by_source})
        report(f"epoch {epoch + 1} done: loss {total / seen:.4f}, validation F1 {mean:.4f} {by_source}")
        if mean > best[0]:
            best = (mean, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    model.load_state_dict(best[1])
    model.eval()
    history["seconds"] = time.monotonic() - started
    return history


def _loss(logits: torch.Tensor, rows: Sequence[Row], recipe: Recipe) -> torch.Tensor:
    weight = torch.tensor(
        [{NOISY: recipe.noisy_weight, SYNTHETIC: recipe.synthetic_weight}.get(r.source, 1.0) for r in rows]
    )
    smooth = torch.tensor([recipe.noisy_smoothing if r.source == NOISY else recipe.smoothing for r in rows])
    hard = torch.tensor([float(r.label) for r in rows]) * (1 - smooth) + smooth / 2
    positive = torch.tensor([float("nan") if r.opinion is None else r.opinion for r in rows])
    positive = torch.where(positive.isnan(), hard, positive)
    target = torch.stack([1 - positive, positive], dim=1)
    return (-(target * logits.log_softmax(dim=1)).sum(dim=1) * weight).mean()


def f1_by_source(rows: Sequence[Row], logits: Floats) -> dict[str, float]:
    """F1 by family of sources."""
    guess = logits.argmax(axis=1)
    result = {}
    for group in sorted({family(row.source) for row in rows}):
        mine = [i for i, row in enumerate(rows) if family(row.source) == group]
        result[group] = round(scores([rows[i].label for i in mine], [int(guess[i]) for i in mine]).f1, 4)
    return result
