"""The card that every trained model carries: what it knows, what it learnt from, how well it does."""

import json
from pathlib import Path
from typing import Any


def write_model_card(folder: Path, run: dict[str, Any], *, name: str) -> None:
    """Write `README.md` beside a checkpoint.

    Args:
        folder: The checkpoint's folder.
        run: Content of the run's `metrics.json`.
        name: What the model is called.
    """
    options = run["options"]
    lines = [
        "---",
        f"license: {json.dumps(options['licence'], ensure_ascii=False)}",
        "library_name: gpner",
        "pipeline_tag: token-classification",
        "---",
        "",
        f"# {name}",
        "",
        f"A gpner model: nested named entities, {options['head']} over {Path(options['encoder']).name}.",
        "",
        f"- Labels: {', '.join(run['labels'])}",
        f"- Trained on: {Path(options['train']).name} ({run['windows']} windows)",
        f"- Best epoch chosen on: {Path(options['dev']).name}",
        f"- Context: {options['context']} tokens; longer documents are read in overlapping windows",
        f"- Licence: {options['licence']}",
        f"- Left out of training: {len(run['inexpressible'])} spans that the tokens cannot express",
        "",
        "Strict scores on dev (a span counts if label, start and end are right):",
        "",
        *_score_rows(run["dev"]),
        "",
        "```python",
        "from gpner.extractor import Extractor",
        "",
        f'Extractor.from_pretrained("{name}").extract(["..."])',
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _score_rows(evaluation: dict[str, Any]) -> list[str]:
    rows = ["| label | precision | recall | F1 | gold |", "|---|---|---|---|---|"]
    for label, scores in (*evaluation["by_label"].items(), ("(all)", evaluation["micro"])):
        figures = " | ".join(f"{scores[name]:.3f}" for name in ("precision", "recall", "f1"))
        rows.append(f"| {label} | {figures} | {scores['gold']} |")
    return rows
