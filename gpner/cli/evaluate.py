"""`gpner evaluate`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gpner.cli.command import breakdown_table, new_command, reliability_table, score_table
from gpner.cli.problems import print_problems
from gpner.errors import ConfigError
from gpner.formats import READERS


def add_command(commands: Any) -> None:
    """Add `evaluate` to the parser."""
    help_text = "score a model on examples: strict spans, whole corpus, and where the errors are"
    parser = new_command(commands, "evaluate", _run, help_text)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("examples", type=Path, help="file of examples, plain or .gz, or a brat folder")
    parser.add_argument("--json", action="store_true", help="print all scores as JSON")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="write a page to read the errors on"
    )
    parser.add_argument(
        "--precision", choices=("auto", "int8"), default="auto", help="what the encoder's linear layers multiply in"
    )
    parser.add_argument("--format", choices=("auto", *READERS), default="auto", help="format of the examples")
    parser.add_argument("--strict", action="store_true", help="stop at the first problem in the examples")


def _run(options: argparse.Namespace) -> None:
    from gpner.evaluation import evaluate_extractions
    from gpner.evaluation.calibration import was_tuned_on
    from gpner.examples import read_corpus
    from gpner.extractor import Extractor

    if "html" in options and (options.html.is_dir() or not options.html.parent.is_dir()):
        raise ConfigError(f"--html must name a file in a folder that is there, was: {options.html}")
    corpus = read_corpus(options.examples, format=options.format, strict=options.strict)
    print_problems(corpus.problems)
    extractor = Extractor.from_pretrained(options.model, precision=options.precision)
    tuned_on = extractor.model.config.tuned_on
    if was_tuned_on(tuned_on, corpus.examples):
        sys.stderr.write("the model's thresholds were tuned on these very examples: these scores are no honest test\n")
    extractions = list(extractor.extract_iter(example.text for example in corpus.examples))
    evaluation = evaluate_extractions(corpus.examples, extractions)
    if "html" in options:
        from gpner.report import write_report

        write_report(
            options.html,
            model_name=extractor.model_name,
            evaluation=evaluation,
            examples=corpus.examples,
            extractions=extractions,
        )
    if options.json:
        sys.stdout.write(json.dumps(evaluation.to_dict(), indent=2) + "\n")
    else:
        _show(evaluation.to_dict(), str(options.examples))


def _show(scores: dict[str, Any], title: str) -> None:
    console = Console()
    console.print(score_table(scores, title=title))
    console.print(breakdown_table(scores))
    console.print(reliability_table(scores["reliability"]))
    console.print(", ".join(f"{count} {kind}" for kind, count in scores["kinds"].items()))
