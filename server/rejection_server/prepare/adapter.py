"""A PEFT adapter and its base, merged into one model that is prepared like any other. Runs in a process of its own."""

import importlib.util
import shutil
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from rejection_server.commands import installing
from rejection_server.prepare.errors import MissingPackageError, PrepareError, UnsupportedError, disk_errors
from rejection_server.prepare.source import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    PICKLES,
    SAFETENSORS,
    TOKENIZER_JSON,
    TOKENIZER_SETTINGS,
    TOKENIZER_SOURCES,
    Source,
    read_object,
)
from rejection_server.prepare.weights import check_finite
from rejection_server.wording import one_line

_KIND = "SEQ_CLS"
_HEADS = (".classifier.weight", ".classifier.out_proj.weight", ".classifier.dense.weight", ".score.weight")
"""How the names of the weights end that give the scores, one row a label."""
_CLOSE = 1e-4
_IDS = (1, 2, 3, 4, 5, 6, 7)
_BY_HAND = "merge it yourself (merge_and_unload, save_pretrained) and prepare what that wrote"


def merged(adapter: Source, folder: Path) -> Source:
    """Write the adapter merged into its base to `folder`, with labels and tokenizer; returns that as a whole model.

    Labels and tokenizer are the adapter's own where it has any, else the base's. Raises UnsupportedError where it
    cannot be merged, MissingPackageError without the package `peft`.
    """
    base = adapter.base
    assert base is not None
    kind = read_object(adapter.folder / ADAPTER_CONFIG).get("task_type")
    if kind != _KIND:
        raise UnsupportedError(f"the adapter is not one of a text classifier: its task_type is {kind}, not {_KIND}")
    if base.weights is None:
        raise UnsupportedError(f"the adapter's base {base.name} has no PyTorch weights, into which it could be merged")
    if importlib.util.find_spec("peft") is None:
        raise MissingPackageError(f"merging an adapter needs the package peft: run {installing('export')}")
    model = _merge(adapter, base)
    has_own = any(name in adapter.files for name in (TOKENIZER_JSON, *TOKENIZER_SOURCES))
    tokenizer = adapter if has_own else base
    with disk_errors(folder):
        folder.mkdir()
        model.save_pretrained(folder, max_shard_size="1TB")
        for name in (*TOKENIZER_SETTINGS, TOKENIZER_JSON, *TOKENIZER_SOURCES):
            if name in tokenizer.files:
                shutil.copyfile(tokenizer.folder / name, folder / name)
    written = tuple(sorted(path.name for path in folder.iterdir()))
    return replace(adapter, folder=folder, files=written, weights=SAFETENSORS, base=None, merged_from=adapter)


def _merge(adapter: Source, base: Source) -> Any:
    """The model of the base with the adapter's changes in its weights."""
    import torch
    import transformers
    from peft import PeftModel
    from safetensors.torch import load_file

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    changes = load_file(adapter.folder / ADAPTER_WEIGHTS)
    try:
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            base.folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=base.weights not in PICKLES,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the base's own head, of other labels
            **_labels(adapter, base, changes),
        )
        _check_head({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}, set(changes))
        whole = PeftModel.from_pretrained(model, str(adapter.folder)).eval()
        ids = torch.tensor([_IDS])
        with torch.inference_mode():
            before = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            model = whole.merge_and_unload()
            check_finite(model, ADAPTER_WEIGHTS)
            after = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except PrepareError:
        raise
    except Exception as exc:  # peft and transformers raise whatever they stumble over
        raise UnsupportedError(
            f"peft cannot merge the adapter into {base.name} ({one_line(exc, 200)}): {_BY_HAND}"
        ) from exc
    if not torch.allclose(before, after, atol=_CLOSE * max(1.0, float(before.abs().max()))):
        raise UnsupportedError(f"merged into {base.name} the adapter answers otherwise than beside it: {_BY_HAND}")
    return model.eval()


def _labels(adapter: Source, base: Source, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with as many labels as the adapter's head has rows, by their names where anything says them."""
    rows = {int(values.shape[0]) for name, values in changes.items() if name.endswith(_HEADS) and values.ndim == 2}
    count = rows.pop() if len(rows) == 1 else None
    for source in (adapter, base):
        names = read_object(source.folder / CONFIG).get("id2label") if CONFIG in source.files else None
        if isinstance(names, dict) and count in (None, len(names)):
            by_id = {int(number): str(name) for number, name in names.items()}
            return {"id2label": by_id, "label2id": {name: number for number, name in by_id.items()}}
    return {} if count is None else {"num_labels": count}


def _check_head(missing: Set[str], changes: Set[str]) -> None:
    """Raise UnsupportedError if the base lacks weights that the adapter does not bring."""
    untrained = sorted(key for key in missing if not any(name.endswith(f".{key}") for name in changes))
    if untrained:
        raise UnsupportedError(
            f"neither the adapter nor its base holds {', '.join(untrained[:3])}: it was saved without its classifier"
        )
