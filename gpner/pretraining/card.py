"""The card of a pre-trained encoder: what it read, and how well it fills in hidden words."""

import json
from pathlib import Path
from typing import Any

from gpner.pretraining_options import PretrainingOptions

ROWS = {
    "eval_perplexity": "all positions",
    "eval_perplexity_short": "positions 0-511",
    "eval_perplexity_long": "positions from 512 on",
}


def write_encoder_card(folder: Path, options: PretrainingOptions, run: dict[str, Any]) -> None:
    """Write `README.md` beside an encoder.

    Args:
        folder: Where it is written.
        options: What the run was started with.
        run: Content of its `metrics.json`.
    """
    start = f"trained further from {Path(options.encoder).name}" if options.encoder else "trained from scratch"
    data = run["data"]
    objective = f" and {options.sentence_objective.upper()}" if options.sentence_objective else ""
    lines = [
        "---",
        f"license: {json.dumps(options.licence, ensure_ascii=False)}",
        "library_name: transformers",
        "pipeline_tag: fill-mask",
        "---",
        "",
        f"# {options.output.resolve().name}",
        "",
        f"An encoder {start} with gpner, by masked-language modelling{objective} over {options.context} positions.",
        "",
        f"- Read: {options.train.name} ({data['train']['documents']} documents, {data['train']['tokens']} tokens, "
        f"{options.epochs:g} epochs)",
        f"- Evaluated on: {data['eval']['documents']} documents, {data['eval']['tokens']} tokens",
        f"- Licence: {options.licence}",
        "",
        "Perplexity of hidden tokens (15 %, whole words, or spans of 1-4 characters where words are not separated):",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(
            f"| {title} | {run['before'][name]:.2f} | {run['after'][name]:.2f} |"
            for name, title in ROWS.items()
            if name in run["after"]
        ),
        "",
        f"`gpner train --encoder {options.output.name}` makes an extractor of it.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
