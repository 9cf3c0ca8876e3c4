"""Split a file of examples into train, dev and test as the reference figures do.

    python benchmarks/split.py litbank.jsonl.gz runs/litbank

Sorted by id, document i goes to dev where i mod 10 is 8, to test where it is 9, to train otherwise.
"""

import gzip
import json
import sys
from pathlib import Path

PART_OF_REMAINDER = {8: "dev", 9: "test"}


def split(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        examples = sorted((json.loads(line) for line in lines), key=lambda example: example["id"])
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for number, example in enumerate(examples):
        parts[PART_OF_REMAINDER.get(number % 10, "train")].append(json.dumps(example, ensure_ascii=False) + "\n")
    for part, of_part in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(of_part), encoding="utf-8")
        print(f"{folder / part}.jsonl: {len(of_part)} documents")


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))
