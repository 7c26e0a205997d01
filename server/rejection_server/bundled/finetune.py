"""Fine-tunes the base encoder to tell refusals from answers, on the CPU, with a fixed seed."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rejection_server.bundled.data import NOISY, SYNTHETIC, Row, varied
from rejection_server.bundled.metrics import Floats, scores

LABELS = ("NORMAL", "REJECTION")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of the training run. None was chosen on the test file."""

    members: int = 2
    """Models trained from the same start in different orders of rows; the mean of their weights is the result."""
    epochs: int = 2
    learning_rate: float = 5e-5
    """Of the encoder's layers. Its embeddings stay as they are: a few thousand texts teach few of 30,000 words."""
    head_learning_rate: float = 5e-4
    """The classification head starts random, the encoder does not."""
    weight_decay: float = 0.01
    warmup_share: float = 0.06
    tokens_per_batch: int = 2048
    """Padded tokens of a batch: batches hold rows of similar length, so many short or few long ones."""
    max_rows_per_batch: int = 24
    max_length: int = 512
    short_length: int = 128
    """Tokens of most training rows: whoever refuses does so early, and what comes later only distracts."""
    long_share: float = 0.1
    """Share of the rows of an epoch that keep `max_length` tokens, so that long texts are no surprise."""
    noisy_weight: float = 0.5
    """Weight of a row of the source whose labels are noisy and count partial refusals as refusals."""
    noisy_share: float = 1.0
    """Share of that source's rows that an epoch draws: they are many, and alike."""
    synthetic_weight: float = 0.3
    noisy_smoothing: float = 0.1
    smoothing: float = 0.02
    seed: int = 20261122


def load_base(folder: Path) -> tuple[Any, Any]:
    """The base encoder with a new two-label head, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        attn_implementation="sdpa",
        dtype=torch.float32,
    )
    model.base_model.embeddings.requires_grad_(False)
    return model, tokenizer


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


def finetune(
    model: Any,
    tokenizer: Any,
    train: Sequence[Row],
    validation: Sequence[Row],
    recipe: Recipe,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train in place: every member from the model's weights, then the mean of the members' weights.

    Returns the history: the loss of each epoch, and the validation F1 of each source for members and mean.
    """
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    history: dict[str, Any] = {"members": []}
    began = time.monotonic()
    for member in range(recipe.members):
        model.load_state_dict(start)
        torch.manual_seed(recipe.seed + member)

        def tell(message: str, member: int = member) -> None:
            report(f"member {member + 1}/{recipe.members}: {message}")

        losses = _train(model, tokenizer, train, recipe, random.Random(recipe.seed + member), tell)
        by_source = validation_f1(model, tokenizer, validation, recipe.max_length)
        tell(f"validation F1 {by_source}")
        history["members"].append({"losses": losses, "validation_f1": by_source})
        for name, tensor in model.state_dict().items():
            mean[name] += tensor / recipe.members if tensor.is_floating_point() else 0
    model.load_state_dict({name: mean[name] if start[name].is_floating_point() else start[name] for name in start})
    model.eval()
    history["validation_f1"] = validation_f1(model, tokenizer, validation, recipe.max_length)
    history["seconds"] = time.monotonic() - began
    report(f"mean of the members: validation F1 {history['validation_f1']}")
    return history


def _train(
    model: Any, tokenizer: Any, rows: Sequence[Row], recipe: Recipe, rng: random.Random, report: Callable[[str], None]
) -> list[float]:
    """Train one member in place; returns the mean loss of each epoch."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for n, p in trained if n.startswith(("classifier", "bert.pooler"))]
    body = [p for n, p in trained if not n.startswith(("classifier", "bert.pooler"))]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": recipe.learning_rate}, {"params": head, "lr": recipe.head_learning_rate}],
        weight_decay=recipe.weight_decay,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses = []
    started = said = time.monotonic()
    for epoch in range(recipe.epochs):
        drawn = [varied(row, rng) for row in rows if row.source != NOISY or rng.random() < recipe.noisy_share]
        encoded = _encoded(tokenizer, [row.text for row in drawn], recipe, rng)
        batches = _batches([len(ids) for ids in encoded], recipe, rng)
        total, seen = 0.0, 0
        model.train()
        for number, batch in enumerate(batches):
            done_share = (epoch + number / len(batches)) / recipe.epochs
            slope = min(1.0, done_share / recipe.warmup_share, (1 - done_share) / (1 - recipe.warmup_share))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * slope
            inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(**inputs).logits
            loss = _loss(logits.float(), [drawn[i] for i in batch], recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
            optimizer.step()
            total, seen = total + loss.item() * len(batch), seen + len(batch)
            if time.monotonic() - said > 20:
                said = time.monotonic()
                left_s = (said - started) / max(done_share, 1e-9) * (1 - done_share)
                where = f"epoch {epoch + 1}/{recipe.epochs} {seen}/{len(drawn)}"
                report(f"{where} loss {total / seen:.4f}, {left_s / 60:.0f} min left")
        losses.append(total / seen)
        report(f"epoch {epoch + 1} done: loss {losses[-1]:.4f}")
    return losses


def _encoded(tokenizer: Any, texts: Sequence[str], recipe: Recipe, rng: random.Random) -> list[list[int]]:
    """Token ids of each text; all but `long_share` of the long ones are cut to `short_length`."""
    rows: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=recipe.max_length)["input_ids"]
    return [
        ids
        if len(ids) <= recipe.short_length or rng.random() < recipe.long_share
        else [*ids[: recipe.short_length - 1], ids[-1]]
        for ids in rows
    ]


def _loss(logits: torch.Tensor, rows: Sequence[Row], recipe: Recipe) -> torch.Tensor:
    weight = torch.tensor(
        [{NOISY: recipe.noisy_weight, SYNTHETIC: recipe.synthetic_weight}.get(r.source, 1.0) for r in rows]
    )
    smooth = torch.tensor([recipe.noisy_smoothing if r.source == NOISY else recipe.smoothing for r in rows])
    positive = torch.tensor([float(r.label) for r in rows]) * (1 - smooth) + smooth / 2
    target = torch.stack([1 - positive, positive], dim=1)
    return (-(target * logits.log_softmax(dim=1)).sum(dim=1) * weight).mean()


def validation_f1(model: Any, tokenizer: Any, rows: Sequence[Row], max_length: int) -> dict[str, float]:
    """F1 per source family (``xstest-*`` count as one)."""
    guess = logits_of(model, tokenizer, [row.text for row in rows], max_length).argmax(axis=1)
    families = [row.source.split("-")[0] if row.source.startswith("xstest") else row.source for row in rows]
    result = {}
    for family in sorted(set(families)):
        mine = [i for i, name in enumerate(families) if name == family]
        f1 = scores([rows[i].label for i in mine], [int(guess[i]) for i in mine]).f1
        result[family] = 0.0 if math.isnan(f1) else round(f1, 4)
    return result
