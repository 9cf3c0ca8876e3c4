"""`gpner evaluate`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gpner.cli.command import new_command, score_table


def add_command(commands: Any) -> None:
    """Add `evaluate` to the parser."""
    help_text = "score a model on JSONL examples: strict spans, whole corpus"
    parser = new_command(commands, "evaluate", _run, help_text)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("examples", type=Path, help="JSONL file of examples, plain or .gz")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def _run(options: argparse.Namespace) -> None:
    from gpner.dataset import read_examples
    from gpner.evaluation import evaluate_extractor
    from gpner.extractor import Extractor

    examples = read_examples(options.examples)
    scores = evaluate_extractor(Extractor.from_pretrained(options.model), examples).to_dict()
    if options.json:
        sys.stdout.write(json.dumps(scores, indent=2) + "\n")
    else:
        Console().print(score_table(scores, title=str(options.examples)))
