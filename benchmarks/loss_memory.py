"""Peak memory of one training step: the encoder alone, with head and span loss, and with the loss in its dense form.

    python benchmarks/loss_memory.py [--lengths 2048 8192] [--labels 1 10 40] [--heads efficient ...] [--repeats 2]

One document of random tokens, forward and backward, through a BERT of six layers and hidden size 384. Every figure is
the median of repeats in processes of their own: what the step adds to the memory resident before it (on a GPU, to the
memory allocated), with the weights' gradients already in place and no optimizer. "Encoder" is a step whose loss is the
mean of the last states. The ratio is that of the step with head and loss to it, with and without checkpointing of the
encoder's layers.
"""

import argparse
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import BertConfig

from gpner.attention import Pack
from gpner.config import GlobalPointerConfig
from gpner.heads import SpanFactors
from gpner.model import GlobalPointerForEntities

POSITIONS = 8192
HEADS = {
    "efficient": {"head": "efficient_global_pointer", "bias_from": "projection"},
    "efficient, from hidden": {"head": "efficient_global_pointer", "bias_from": "hidden"},
    "plain": {"head": "global_pointer"},
}
WARM_UP_TOKENS = 64
# Gold spans, one in so many tokens, as in news.
TOKENS_PER_ENTITY = 20
# The dense form is measured up to here; at 4,096 tokens and ten labels it would take several gigabytes.
DENSE_TOKENS = 2048


@dataclass(frozen=True)
class Case:
    """One measurement. `loss` is none (the encoder alone), ours or dense."""

    length: int
    checkpointing: bool
    loss: str = "none"
    head: str = "efficient"
    n_labels: int = 1


def measure(case: Case) -> float:
    """Run one step; its peak in MB (10^6 bytes) above what was in use before. For a fresh process."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(case).to(device).train()
    step(model, case, WARM_UP_TOKENS)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(model, case, case.length)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    step(model, case, case.length)
    return (resident("VmHWM") - before) / 1e6


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def build_model(case: Case) -> GlobalPointerForEntities:
    encoder = BertConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=POSITIONS,
        use_cache=False,
    )
    labels = [f"L{number}" for number in range(case.n_labels)]
    model = GlobalPointerForEntities(
        GlobalPointerConfig(encoder_config=encoder, labels=labels, context=POSITIONS, **HEADS[case.head])
    )
    if case.checkpointing:
        # Its name in later releases of transformers 5, and in earlier ones.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(model.encoder, name) for name in names if hasattr(model.encoder, name))
        enable({"use_reentrant": False})
    return model


def step(model: GlobalPointerForEntities, case: Case, length: int) -> None:
    ids = torch.randint(1000, 30_000, (length,), device=model.device)
    contents = torch.tensor([[1, length - 1]])
    spans = gold_spans(length - 2, case.n_labels).to(model.device)
    if case.loss == "ours":
        loss = model(ids, [length], contents, spans).loss
    else:
        pack = Pack((length,), ids.device)
        states = model.encoder(input_ids=ids[None], position_ids=pack.positions[None], pack=pack).last_hidden_state[0]
        if case.loss == "none":
            loss = states.mean()
        else:
            loss = dense_loss(model.head(states, pack.positions).narrow(1, length - 1), spans)
    loss.backward()


def gold_spans(length: int, n_labels: int) -> Tensor:
    count = length // TOKENS_PER_ENTITY
    first = torch.randint(length - 5, (count,))
    return torch.stack(
        [
            torch.zeros(count, dtype=torch.long),
            torch.randint(n_labels, (count,)),
            first,
            first + torch.arange(count) % 5,
        ],
        dim=1,
    )


def dense_loss(factors: SpanFactors, spans: Tensor) -> Tensor:
    """The same loss over a table of labels x length², as it is usually written."""
    logits = torch.einsum("igd,jgd->gij", factors.query, factors.key)
    logits = logits + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]
    entity = torch.zeros_like(logits, dtype=torch.bool)
    entity[spans[:, 1], spans[:, 2], spans[:, 3]] = True
    below = torch.ones_like(entity[0]).tril(-1)
    zero = logits.new_zeros(logits.shape[0], 1)
    negative = logits.masked_fill(entity | below, float("-inf")).flatten(1)
    positive = (-logits).masked_fill(~entity, float("-inf")).flatten(1)
    return (torch.cat([zero, negative], 1).logsumexp(1) + torch.cat([zero, positive], 1).logsumexp(1)).mean()


def peak(case: Case, repeats: int) -> float:
    """Median in MB over fresh processes."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        return statistics.median(processes.map(measure, [case] * repeats))


def add_rows(table: Table, length: int, options: argparse.Namespace) -> None:
    alone = {flag: peak(Case(length, flag), options.repeats) for flag in (False, True)}
    for head in options.heads:
        for n_labels in options.labels:
            cells = [f"{length:,}", head, str(n_labels)]
            for flag, own in alone.items():
                case = Case(length, flag, "ours", head, n_labels)
                ours = peak(case, options.repeats)
                cells += [f"{own:,.0f}", f"{ours:,.0f}", f"{ours / own:.2f}"]
                if not flag:
                    dense = length <= DENSE_TOKENS
                    cells.append(f"{peak(replace(case, loss='dense'), options.repeats):,.0f}" if dense else "")
            table.add_row(*cells)
            print(*cells, sep=" | ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192], help="tokens of the document")
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 10, 40], help="numbers of labels")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--repeats", type=int, default=2, help="processes per figure")
    options = parser.parse_args()
    # Every large buffer is then returned when it is freed: the resident memory is what is in use, not what once was.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    table = Table("tokens", "head", "labels", "encoder MB", "with loss", "ratio", "dense loss")
    for column in ("encoder MB, checkpointed", "with loss", "ratio"):
        table.add_column(column)
    for length in options.lengths:
        add_rows(table, length, options)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
