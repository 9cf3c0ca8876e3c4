"""Corpora and a tokenizer from what this repository holds, for machines that have nothing else: no network, no data.

    python benchmarks/stand_in.py FOLDER

Writes FOLDER/long.jsonl.gz (the demo's documents), FOLDER/short.jsonl.gz (their sentences) and FOLDER/tokenizer
(WordPieces learnt from them), for the options --litbank, --wnut17 and --encoder of benchmarks/performance.py. As each
entity is as random as the model, only time and memory can be learnt from them.
"""

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from engines import SENTENCE
from transformers import BertTokenizer

DEMO = Path(__file__).parent.parent / "worker" / "demo" / "documents.jsonl"
VOCABULARY = 8_000


def write_corpus(path: Path, texts: Iterable[str]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    texts = [json.loads(line)["text"] for line in DEMO.read_text(encoding="utf-8").splitlines()]
    sentences = [found.group().strip() for text in texts for found in SENTENCE.finditer(text)]
    write_corpus(folder / "long.jsonl.gz", texts)
    write_corpus(folder / "short.jsonl.gz", filter(None, sentences))
    tokenizer = BertTokenizer(do_lower_case=False).train_new_from_iterator(texts, VOCABULARY, show_progress=False)
    tokenizer.save_pretrained(folder / "tokenizer")


if __name__ == "__main__":
    main()
