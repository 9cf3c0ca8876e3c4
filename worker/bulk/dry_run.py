"""`--dry-run`: reads everything, writes nothing, and says what a run would do."""

from collections import Counter
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from worker.bulk.columns import Columns
from worker.bulk.job import count_shards, types_of
from worker.bulk.options import Options
from worker.bulk.reading import Part, Reading
from worker.bulk.rows import Position, Problem, Row
from worker.bulk.run import find_input
from worker.bulk.seen import SeenIds
from worker.bulk.show import print_words, readable
from worker.settings import load_settings


def dry_run(options: Options, out: Console) -> bool:
    """Print what a run would do; whether the input has no problems.

    Raises:
        ConfigError: If a run would refuse the input.
    """
    settings = load_settings()
    sources = find_input(options, out)
    folder = None if options.to_standard_output else Path(options.output)
    types = types_of(folder, options.fingerprint(settings.max_document_characters), sources) if folder else {}
    problems: Counter[str] = Counter()
    documents = characters = 0
    examples: dict[str, Problem] = {}
    with closing(SeenIds(None)) as seen:
        reading = Reading(
            [Part(source) for source in sources],
            Columns(options.text_field, options.id_field, options.keep, types),
            seen,
            shard_items=options.shard_documents,
            max_document_characters=settings.max_document_characters,
        )
        for block in reading.blocks(Position(), options.limit):
            for item in block.items:
                if isinstance(item, Row):
                    documents += 1
                    characters += len(item.text)
                else:
                    problems[item.type] += 1
                    examples.setdefault(item.type, item)
    items = documents + problems.total()
    numbers = {
        "sources": len(sources),
        "bytes": sum(source.size for source in sources),
        "documents": documents,
        "characters": characters,
        "shards": -(-items // options.shard_documents),
        "shards that are finished": count_shards(folder) if folder else 0,
        "problems": problems.total(),
        **{f"  {name}": count for name, count in problems.most_common()},
    }
    rows = {name: f"{number:,}" for name, number in numbers.items()}
    _print(rows | {f"--keep {readable(name)}": str(kind) for name, kind in types.items()}, out)
    for problem in examples.values():
        print_words(out, f"{problem.place}: {problem.message}")
    return not problems


def _print(rows: dict[str, str], out: Console) -> None:
    table = Table(title="dry run: nothing was written")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table, markup=False)
