"""One engine in a process of its own, for benchmarks/performance.py: what it loads and keeps disturbs no other.

    python benchmarks/engines.py ENGINE --model FOLDER --texts FILE [--device cuda]

Loads the model and FILE (JSON, a list of texts), then answers each line of standard input with one line of JSON:
seconds of a whole run from texts to entities, the peak of its memory in bytes (on a GPU, that of the GPU), and the
entities, those of each text as [start, end, label]; null where the model is another, so that they cannot be compared.

Each engine imports what it needs itself, so that it can run under another interpreter with other packages.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from gpner.decoding import Span
    from gpner.extractor import Extractor
    from gpner.tokenization import Window

Entities = list[list[tuple[int, int, str]]]
Engine = Callable[[Sequence[str]], Entities | None]
# Divides windows into batches, given as their numbers.
Batches = Callable[[Sequence["Window"]], Iterator[list[int]]]
# Token ids and mask, both of shape (documents, longest) and on the engine's device, to last states.
Encode = Callable[["Tensor", "Tensor"], "Tensor"]

# What text-embeddings-inference admits to a batch by default, padding included.
FIRST_COME_TOKENS = 16_384
SORTED_TOKENS = 8_192
# A pack that keeps a large GPU busy; on a CPU the default suits.
GPU_BATCH_TOKENS = 32_768
NAIVE_DOCUMENTS = 32
SENTENCES = 32
SENTENCE = re.compile(r"[^.!?。！？；\n]+(?:[.!?。！？；]+[”’\"')]*|\n|$)")
# Other models know none of our labels; as many as ours has.
FOREIGN_LABELS = [f"label {number}" for number in range(10)]


def load_ours(model: Path, device: str, precision: str = "auto") -> "Extractor":
    """Our model as `gpner extract` loads it; to be called before anything loads torch."""
    from gpner.process import prepare_process

    prepare_process()
    from gpner.extractor import Extractor

    budget = {"max_batch_tokens": GPU_BATCH_TOKENS} if device == "cuda" else {}
    return Extractor.from_pretrained(model, device=device, precision=precision, **budget)


def gpner(model: Path, device: str) -> Engine:
    """Ours, with whatever texts there are read as a stream."""
    return _streaming(load_ours(model, device))


def gpner_int8(model: Path, device: str) -> Engine:
    """Ours, with the encoder's linear layers multiplying in int8."""
    return _streaming(load_ours(model, device, precision="int8"))


def gpner_compiled(model: Path, device: str) -> Engine:
    """Ours, with the encoder's layers compiled once for packs of any size."""
    extractor = load_ours(model, device)
    import torch
    from transformers import AttentionInterface

    from gpner.attention import IMPLEMENTATION, packed_attention

    # Traced, it would be compiled anew for other documents: a pack's lengths are constants to the compiler.
    AttentionInterface.register(IMPLEMENTATION, torch.compiler.disable(packed_attention))
    for layer in extractor.model.encoder.encoder.layer:
        layer.compile(dynamic=True)
    return _streaming(extractor)


def gpner_torch_decode(model: Path, device: str) -> Engine:
    """Ours, with spans decoded by torch as where there is no Triton."""
    extractor = load_ours(model, device)
    from gpner import decoding

    decoding._search_on = lambda _: decoding._find_cells
    return _streaming(extractor)


def _streaming(extractor: "Extractor") -> Engine:
    def run(texts: Sequence[str]) -> Entities:
        extractions = extractor.extract_iter(texts)
        return [[(e.start, e.end, e.label) for e in extraction.entities] for extraction in extractions]

    return run


def naive(model: Path, device: str) -> Engine:
    """What one writes first: fp32, padded batches of 32 documents as they come."""
    return _Padded(model, device, _stock_encoder(model, device, half=False), _by_count)


def naive_half(model: Path, device: str) -> Engine:
    """The same in bf16."""
    return _Padded(model, device, _stock_encoder(model, device, half=True), _by_count)


def first_come(model: Path, device: str) -> Engine:
    """As text-embeddings-inference batches: bf16, as they come, as many as fit in a budget with their padding."""
    encode = _stock_encoder(model, device, half=True)
    return _Padded(model, device, encode, lambda windows: _by_budget(windows, FIRST_COME_TOKENS))


def by_length(model: Path, device: str) -> Engine:
    """What a careful user does with transformers: bf16, sorted by length, under a budget."""
    return _Padded(model, device, _stock_encoder(model, device, half=True), _sorted_by_length)


def onnx(model: Path, device: str) -> Engine:
    """ONNX Runtime in fp32, which is all that it has for bf16 weights on a CPU; sorted by length, under a budget."""
    import onnxruntime
    import torch
    from onnx_file import check_export, export

    path = model / "encoder.onnx"
    if not path.exists():
        export(_load_stock(model), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def encode(ids: "Tensor", mask: "Tensor") -> "Tensor":
        return torch.from_numpy(session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])

    check_export(path, encode, _stock_encoder(model, device, half=False))
    return _Padded(model, device, encode, _sorted_by_length)


def pipeline(model: Path, device: str) -> Engine:
    """transformers' token-classification pipeline, sentence by sentence, with a head of random weights."""
    import torch
    from transformers import AutoModelForTokenClassification
    from transformers import pipeline as make_pipeline

    from gpner.checkpoint import load_checkpoint

    ours, tokenizer = load_checkpoint(model)
    config = ours.encoder.config
    config.num_labels = 1 + 2 * len(ours.config.labels)
    tagger = AutoModelForTokenClassification.from_config(config, attn_implementation="sdpa")
    tagger.base_model.load_state_dict(ours.encoder.state_dict(), strict=False)
    tag = make_pipeline(
        "token-classification",
        model=tagger.to(torch.bfloat16).eval(),
        tokenizer=tokenizer,
        aggregation_strategy="simple",
        batch_size=SENTENCES,
        device=device,
    )

    def run(texts: Sequence[str]) -> None:
        tag([found.group() for text in texts for found in SENTENCE.finditer(text) if found.group().strip()])

    return run


def gliner(model: Path, device: str) -> Engine:
    """GLiNER around the same encoder, its own layers with random weights; texts in pieces, as it truncates them."""
    from gliner import GLiNER, GLiNERConfig

    config = GLiNERConfig(model_name=str(model / "encoder"), max_width=12, max_len=384, span_mode="markerV0")
    reader = GLiNER.from_config(config, backbone_from_pretrained=True).to(device).eval()

    def run(texts: Sequence[str]) -> None:
        pieces = [" ".join(words[at : at + 384]) for words in map(str.split, texts) for at in range(0, len(words), 384)]
        reader.inference(pieces, FOREIGN_LABELS, batch_size=8)

    return run


def spacy(model: Path, device: str) -> Engine:
    """A transformer pipeline of spaCy around the same encoder, its tagger with random weights."""
    import spacy as library
    from spacy.training import Example

    nlp = library.blank("en")
    nlp.add_pipe("transformer", config={"model": {"name": str(model / "encoder")}})
    tagger = nlp.add_pipe("ner")
    for label in FOREIGN_LABELS:
        tagger.add_label(label)
    nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("Ada read."), {"entities": [(0, 3, FOREIGN_LABELS[0])]})])
    nlp.max_length = 10**9

    def run(texts: Sequence[str]) -> None:
        for _ in nlp.pipe(texts, batch_size=SENTENCES):
            pass

    return run


ENGINES = {
    "gpner": gpner,
    "gpner-int8": gpner_int8,
    "gpner-compiled": gpner_compiled,
    "gpner-torch-decode": gpner_torch_decode,
    "naive": naive,
    "naive-bf16": naive_half,
    "first-come": first_come,
    "by-length": by_length,
    "onnx": onnx,
    "pipeline": pipeline,
    "gliner": gliner,
    "spacy": spacy,
}
CPU_ONLY = ("gpner-int8", "onnx", "spacy")
# On a CPU the compiler knows nothing of weights that are laid out beforehand.
GPU_ONLY = ("gpner-compiled",)


class _Padded:
    """The same weights in padded batches; every span of a window is scored, a label at a time."""

    def __init__(self, model: Path, device: str, encode: Encode, batches: Batches) -> None:
        from gpner.checkpoint import load_checkpoint
        from gpner.tokenization import TextTokenizer

        ours, tokenizer = load_checkpoint(model)
        self.config, self.head = ours.config, ours.head.eval().to(device)
        self.thresholds = self.config.thresholds or [0.0] * len(self.config.labels)
        self.tokenizer = TextTokenizer(tokenizer, context=self.config.context, stride=self.config.stride)
        self.device = device
        self.encode = encode
        self.batches = batches

    def __call__(self, texts: Sequence[str]) -> Entities:
        import torch

        from gpner.tokenization import merge_windows, to_entities

        documents = self.tokenizer(texts)
        windows = [window for document in documents for window in document.windows]
        spans: dict[int, list[Span]] = {}
        with torch.inference_mode():
            for batch in self.batches(windows):
                lengths = torch.tensor([len(windows[index].token_ids) for index in batch])
                mask = torch.arange(int(lengths.max())) < lengths[:, None]
                ids = torch.zeros(mask.shape, dtype=torch.long)
                ids[mask] = torch.tensor([token for index in batch for token in windows[index].token_ids])
                padded = self.encode(ids.to(self.device), mask.long().to(self.device))
                for index, states in zip(batch, padded, strict=True):
                    spans[index] = self._decode(states[: len(windows[index].token_ids)].float(), windows[index])
        found = (spans[index] for index in range(len(windows)))
        entities = (
            to_entities(
                document,
                merge_windows(document.windows, [next(found) for _ in document.windows]),
                tuple(self.config.labels),
            )
            for document in documents
        )
        return [[(entity.start, entity.end, entity.label) for entity in of_text] for of_text in entities]

    def _decode(self, states: "Tensor", window: "Window") -> "list[Span]":
        import torch

        from gpner.decoding import Span

        factors = self.head(states, torch.arange(len(states), device=states.device))
        factors = factors.narrow(window.prefix, window.prefix + window.n_content)
        shared = factors.query[:, 0] @ factors.key[:, 0].T
        spans = []
        for label, threshold in enumerate(self.thresholds):
            logits = shared + factors.start_bias[:, label, None] + factors.end_bias[None, :, label]
            cells = torch.triu(logits > threshold).nonzero()
            found = zip(cells.tolist(), logits[cells[:, 0], cells[:, 1]].tolist(), strict=True)
            for (first, last), logit in found:
                if last - first < (self.config.max_entity_tokens or len(states)):
                    spans.append(Span(label, first, last, logit))
        return spans


def _load_stock(model: Path) -> Any:
    """The encoder of one of our models as transformers runs it."""
    from transformers import AutoModel

    from gpner.checkpoint import load_checkpoint

    ours, _ = load_checkpoint(model)
    stock = AutoModel.from_config(ours.encoder.config, add_pooling_layer=False, attn_implementation="sdpa").eval()
    stock.load_state_dict(ours.encoder.state_dict())
    return stock


def _stock_encoder(model: Path, device: str, half: bool) -> Encode:
    import torch

    stock = _load_stock(model).to(device)
    if half:
        stock.to(torch.bfloat16)
    return lambda ids, mask: stock(input_ids=ids, attention_mask=mask).last_hidden_state


def _by_count(windows: Sequence["Window"]) -> Iterator[list[int]]:
    for start in range(0, len(windows), NAIVE_DOCUMENTS):
        yield list(range(start, min(start + NAIVE_DOCUMENTS, len(windows))))


def _by_budget(
    windows: Sequence["Window"], most_tokens: int, order: Sequence[int] | None = None
) -> Iterator[list[int]]:
    batch: list[int] = []
    longest = 0
    for index in range(len(windows)) if order is None else order:
        length = len(windows[index].token_ids)
        if batch and max(longest, length) * (len(batch) + 1) > most_tokens:
            yield batch
            batch, longest = [], 0
        batch.append(index)
        longest = max(longest, length)
    yield batch


def _sorted_by_length(windows: Sequence["Window"]) -> Iterator[list[int]]:
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].token_ids))
    return _by_budget(windows, SORTED_TOKENS, order)


def _peak_memory(device: str) -> int:
    """Bytes; not by getrusage, whose maximum is inherited from the process that started this one."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_reserved()
    return peak_resident_bytes()


def peak_resident_bytes(process: int | str = "self") -> int:
    """The resident set of a process at its greatest, on Linux."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--model", type=Path, required=True, help="folder of one of our models")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device != "cpu" and options.engine in CPU_ONLY:
        parser.error(f"{options.engine} runs on the CPU only here, was asked for: {options.device}")
    if options.device == "cpu" and options.engine in GPU_ONLY:
        parser.error(f"{options.engine} runs on a GPU only, was asked for: cpu; pass --device cuda")
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    run = ENGINES[options.engine](options.model, options.device)
    for _ in sys.stdin:
        started = time.perf_counter()
        entities = run(texts)
        seconds = time.perf_counter() - started
        print(json.dumps([seconds, _peak_memory(options.device), entities]), file=answers, flush=True)


if __name__ == "__main__":
    main()
