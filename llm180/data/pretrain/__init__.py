"""Small models of the book that take minutes to train, trained once: ``python -m llm180.data.pretrain.day025``.

A lesson runs in seconds. Where its claim needs minutes of training, a module of this folder holds that training,
from the repository's own data and with the lesson's own model class; the weights, as float16, lie in the data
folder, and the lesson gets them by ``data.weights("day025")``. Each module has a ``main()`` that ends in :func:`save`.
Training again gives weights that are as good, not the same bytes: another processor rounds otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm180.data import FILES, REGISTRY, content_sha256, registry, sha256
from llm180.data.rebuild import npz

__all__ = ["save"]


def save(name: str, state: Mapping[str, Any], *, title: str, trained_on: Sequence[str], note: str) -> None:
    """Store weights for ``data.weights(name)`` and enter them, with their hash, in the registry.

    ``state`` holds arrays or tensors by name (a ``state_dict()``); floating-point ones are stored as float16.
    ``title`` says what the model is, ``trained_on`` names data sets of the registry, ``note`` says how long it took on
    what, and how good it is. Raises ValueError if an entry is not finite in float16 or a data set is unknown.
    """
    unknown = [data for data in trained_on if data not in registry()["data"]]
    if unknown or not trained_on:
        raise ValueError(f"trained_on must name data sets of the registry, got {list(trained_on)}")
    arrays = {}
    for key, value in state.items():
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        with np.errstate(over="ignore"):
            arrays[key] = array.astype(np.float16) if array.dtype.kind == "f" else array
        if array.dtype.kind == "f" and not np.isfinite(arrays[key]).all():
            raise ValueError(f"{key} has entries that are not finite in float16")
    file, content = f"weights/{name}.npz", npz(**arrays)
    (FILES / file).parent.mkdir(exist_ok=True)
    (FILES / file).write_bytes(content)
    table = json.loads(REGISTRY.read_text(encoding="utf-8"))
    stored = {"bytes": len(content), "sha256": sha256(content), "content_sha256": content_sha256(file, content)}
    entry = {"title": title, "trained_on": list(trained_on), "note": note, "files": {file: stored}}
    table["weights"] = dict(sorted({**table["weights"], name: entry}.items()))
    REGISTRY.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
    registry.cache_clear()
    print(f"{file}: {len(content):,} bytes. Now run `python -m llm180.data.rebuild --licenses`.")
