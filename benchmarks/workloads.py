"""What the benchmarks read: models with random weights in the shape of BERT-base, and the texts of each workload.

The length mix of the design and a document of 16,384 tokens are cut from fiction, statutes and short texts are taken as
they are. Models are made once, in a folder that the benchmarks are given.
"""

import gzip
import json
import math
import random
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertConfig, BertTokenizerFast, PreTrainedTokenizerFast

from gpner.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from gpner.config import GlobalPointerConfig
from gpner.model import GlobalPointerForEntities
from gpner.tokenization import TextTokenizer

CONTEXT = 4_096
LONGEST = 16_384
LABELS = [f"L{number}" for number in range(10)]
MIX_DOCUMENTS = 32
LAWS_DOCUMENTS = 4
SHORT_DOCUMENTS = 320
SAME_WEIGHTS = ("gpner", "gpner-int8", "naive", "first-come", "by-length")
EVERYONE = (*SAME_WEIGHTS, "onnx", "pipeline", "gliner", "spacy")


@dataclass(frozen=True)
class Workload:
    """Texts, the model that reads them, and the engines that can.

    Attributes:
        name: As in the table.
        model: Folder.
        texts: Of every document.
        tokens: In all of them, special tokens apart.
        flops: Of the encoder over the windows of all of them.
        engines: By their names in benchmarks/engines.py.
    """

    name: str
    model: Path
    texts: list[str]
    tokens: int
    flops: int
    engines: tuple[str, ...]


def add_arguments(parser: ArgumentParser) -> None:
    """Add to a command what every model of random weights needs."""
    parser.add_argument("runs", type=Path, help="folder for models and logs")
    parser.add_argument("--litbank", type=Path, help="litbank.jsonl.gz, or other long texts")
    parser.add_argument("--encoder", type=Path, help="folder of a tokenizer; that of the demo's encoder by default")


def make_workload(name: str, options: Namespace) -> Workload:
    """Make what is not there yet of a workload: its model, its texts."""
    return WORKLOADS[name](name, options)


def _mix(name: str, options: Namespace) -> Workload:
    tokenizer, fiction = load_tokenizer(_encoder(options)), read_corpus(options, "litbank")
    model = _make_model(options.runs / "bert-base", tokenizer, CONTEXT, fiction[0])
    return describe(name, model, cut(fiction, length_mix(MIX_DOCUMENTS * options.scale), tokenizer), EVERYONE)


def _statutes(name: str, options: Namespace) -> Workload:
    statutes = read_corpus(options, "laws")
    chinese = BertTokenizerFast(vocab=str(options.laws.with_name("bert-base-chinese-vocab.txt")))
    model = _make_model(options.runs / "bert-base-chinese", chinese, CONTEXT, statutes[0])
    return describe(name, model, statutes[: LAWS_DOCUMENTS * options.scale], (*SAME_WEIGHTS, "onnx", "pipeline"))


def _short(name: str, options: Namespace) -> Workload:
    tokenizer, short = load_tokenizer(_encoder(options)), read_corpus(options, "wnut17")
    model = _make_model(options.runs / "bert-base", tokenizer, CONTEXT, read_corpus(options, "litbank")[0])
    wanted = SHORT_DOCUMENTS * options.scale
    return describe(name, model, (short * -(-wanted // len(short)))[:wanted], EVERYONE)


def _long(name: str, options: Namespace) -> Workload:
    tokenizer, fiction = load_tokenizer(_encoder(options)), read_corpus(options, "litbank")
    engines = ("gpner", "gpner-int8", "naive", "by-length", "gliner", "spacy")
    return describe(name, long_model(options), cut(fiction, [LONGEST], tokenizer), engines)


def _trained(name: str, options: Namespace) -> Workload:
    from worker.demo.model import demo_model

    model = options.trained or demo_model()
    _, tokenizer = load_checkpoint(model)
    texts = cut(read_corpus(options, "litbank"), length_mix(MIX_DOCUMENTS * options.scale), tokenizer)
    return describe(name, model, texts, SAME_WEIGHTS)


WORKLOADS: dict[str, Callable[[str, Namespace], Workload]] = {
    "length mix": _mix,
    "statutes": _statutes,
    "short texts": _short,
    "one long document": _long,
    "length mix, trained MiniLM": _trained,
}


def long_model(options: Namespace) -> Path:
    """The model of BERT-base's shape that reads 16,384 tokens at once."""
    tokenizer = load_tokenizer(_encoder(options))
    return _make_model(options.runs / "bert-base-long", tokenizer, LONGEST, read_corpus(options, "litbank")[0])


def describe(name: str, model: Path, texts: list[str], engines: Sequence[str]) -> Workload:
    """Count the tokens and the arithmetic of some texts."""
    ours, tokenizer = load_checkpoint(model)
    documents = TextTokenizer(tokenizer, context=ours.config.context, stride=ours.config.stride)(texts)
    flops = ours.flops([len(window.token_ids) for document in documents for window in document.windows])
    return Workload(name, model, texts, sum(document.n_tokens for document in documents), flops, tuple(engines))


def length_mix(n_documents: int, median: float = 297, percentile_95: float = 1972) -> list[int]:
    """Evenly spaced quantiles of the log-normal mix, in a fixed random order; none longer than the context."""
    sigma = math.log(percentile_95 / median) / 1.645
    normal = statistics.NormalDist()
    quantiles = ((number + 0.5) / n_documents for number in range(n_documents))
    lengths = [min(CONTEXT, int(median * math.exp(sigma * normal.inv_cdf(quantile)))) for quantile in quantiles]
    random.Random(0).shuffle(lengths)
    return lengths


def cut(texts: Sequence[str], lengths: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Texts of so many tokens each, special ones included, from one long text; from its beginning again at its end."""
    whole = "\n".join(texts)
    offsets = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False, verbose=False)["offset_mapping"]
    if max(lengths) - 2 > len(offsets):
        raise SystemExit(f"the texts must have {max(lengths) - 2} tokens for the longest document, had: {len(offsets)}")
    pieces, at = [], 0
    for length in lengths:
        content = length - 2
        if at + content > len(offsets):
            at = 0
        pieces.append(whole[offsets[at][0] : offsets[at + content - 1][1]])
        at += content
    return pieces


def read_corpus(options: Namespace, corpus: str) -> list[str]:
    """The texts of a corpus that the command was given.

    Raises:
        SystemExit: If it was not.
    """
    path = getattr(options, corpus)
    if path is None:
        raise SystemExit(f"--{corpus} must name a corpus for this workload, was not given")
    return list(_texts(path))


def _make_model(folder: Path, tokenizer: PreTrainedTokenizerFast, context: int, sample: str) -> Path:
    """A model of BERT-base's shape with random weights; one in 100,000 of all labels' spans exceeds the threshold.

    In a text of 1,000 tokens that is an entity for every 20, as LitBank has them.
    """
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    encoder = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=context)
    config = GlobalPointerConfig(encoder_config=encoder, labels=LABELS, context=context, stride=context // 8)
    model = GlobalPointerForEntities(config).eval()
    with torch.inference_mode():
        model.head.projection.weight.normal_(std=0.1)  # a head with an opinion: at the usual size all spans score alike
        window = TextTokenizer(tokenizer, context=512, stride=64)([sample])[0].windows[0]
        factors = model(torch.tensor(window.token_ids), [len(window.token_ids)]).factors
        factors = factors.narrow(window.prefix, window.prefix + window.n_content)
        logits = torch.einsum("igd,jgd->gij", factors.query, factors.key)
        logits = logits + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]
        upper = logits[torch.ones_like(logits, dtype=torch.bool).triu()]
        model.config.thresholds = [float(upper.topk(upper.numel() // 100_000).values[-1])] * len(LABELS)
    save_checkpoint(model, tokenizer, folder)
    model.encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return folder


def _encoder(options: Namespace) -> Path:
    if options.encoder is not None:
        return options.encoder
    from worker.demo.model import encoder_folder  # here, as a machine for GPUs may lack what the worker needs

    return encoder_folder()


def _texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]
