"""`--dry-run`: reads everything, writes nothing, and says what a run would do."""

from collections import Counter
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from worker.bulk.inputs import find_sources
from worker.bulk.job import read_job
from worker.bulk.options import Options
from worker.bulk.rows import Position, Problem, Row
from worker.bulk.seen import SeenIds
from worker.bulk.stream import plain_reading
from worker.settings import load_settings


def dry_run(options: Options, out: Console) -> bool:
    """Print what a run would do; whether the input has no problems.

    Raises:
        ConfigError: If the input cannot be read at all.
    """
    settings = load_settings()
    sources = find_sources(options.inputs)
    problems: Counter[str] = Counter()
    documents = characters = 0
    examples: dict[str, Problem] = {}
    with closing(SeenIds(None)) as seen:
        reading = plain_reading(options, settings, sources, seen)
        for block in reading.blocks(Position(), options.limit):
            for item in block.items:
                if isinstance(item, Row):
                    documents += 1
                    characters += len(item.text)
                else:
                    problems[item.type] += 1
                    examples.setdefault(item.type, item)
    table = Table(title="dry run: nothing was written")
    table.add_column("")
    table.add_column("", justify="right")
    items = documents + problems.total()
    for name, value in {
        "sources": len(sources),
        "bytes": sum(source.size for source in sources),
        "documents": documents,
        "characters": characters,
        "shards": -(-items // options.shard_documents),
        "shards that are finished": _finished(options),
        "problems": problems.total(),
    }.items():
        table.add_row(name, f"{value:,}")
    for name, count in problems.most_common():
        table.add_row(f"  {name}", f"{count:,}")
    out.print(table)
    for problem in examples.values():
        out.print(f"{problem.place}: {problem.message}", markup=False, highlight=False, soft_wrap=True)
    return not problems


def _finished(options: Options) -> int:
    return 0 if options.to_standard_output else len(read_job(Path(options.output))[1])
