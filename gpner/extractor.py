"""The one inference path: evaluation, the command line and the worker all extract through it."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from gpner.checkpoint import checkpoint_revision, load_checkpoint
from gpner.decoding import Span, decode_pack, keep_flat
from gpner.entities import Extraction
from gpner.errors import ConfigError, DocumentError, OutOfMemoryError
from gpner.graphs import GraphedForward, graphed
from gpner.heads import SpanFactors
from gpner.model import GlobalPointerForEntities
from gpner.packing import pack_by_length
from gpner.peak import measure_peak_flops
from gpner.prepacked import Int8Linear, multiplies_int8, prepack_linears
from gpner.tokenization import TextTokenizer, TokenizedText, Window, entity_logits, merge_windows, to_entities

Precision = Literal["auto", "int8"]
# How many packs `extract_iter` reads ahead, so that there are neighbours in length to choose from.
PACKS_AHEAD = 8
# How torch says that memory is short where it has no error of its own for it: on the CPU, in CUDA's calls, in cuBLAS.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run over tokenized documents gave, and what it took."""

    extractions: list[Extraction]
    forward_seconds: float
    decode_seconds: float
    flops: int


class Extractor:
    """Turns texts into entities with a trained model.

    Args:
        model: The model, already on its device.
        tokenizer: The tokenizer that it was trained with.
        model_name: What results call the model.
        model_revision: The hash of the checkpoint's content, then -int8 in that precision and -flat if `flat`; empty
            for a model that was not read from one.
        max_batch_tokens: Most tokens in one forward, special tokens included; a longer window is read alone.
        flat: Whether overlapping entities are reduced to the best ones.

    Attributes:
        peak_flops: What the device does on large matrix products, in operations a second; 0 before `warm_up`.
    """

    def __init__(
        self,
        model: GlobalPointerForEntities,
        tokenizer: PreTrainedTokenizerFast,
        *,
        model_name: str,
        model_revision: str = "",
        max_batch_tokens: int = 4096,
        flat: bool = False,
    ) -> None:
        if max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens must be at least 1, was: {max_batch_tokens}")
        self.model = model
        model.eval()
        self.model_name = model_name
        self.model_revision = model_revision
        self.max_batch_tokens = max_batch_tokens
        self.flat = flat
        self.peak_flops = 0.0
        self._graphed: GraphedForward | None = None
        self.labels: tuple[str, ...] = tuple(model.config.labels)
        self.device = next(model.parameters()).device
        self._tokenizer = TextTokenizer(tokenizer, context=model.config.context, stride=model.config.stride)
        thresholds = model.config.thresholds or [0.0] * len(self.labels)
        self._thresholds = torch.tensor(thresholds, dtype=torch.float32, device=self.device)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Precision = "auto",
        max_batch_tokens: int = 4096,
        flat: bool = False,
    ) -> Self:
        """Load a trained model from its folder, in bf16 where the device computes in it and in fp32 elsewhere.

        On a GPU the forwards of small packs are recorded, see `gpner.graphs`.

        With precision int8, the linear layers of its encoder multiply in that, which changes one or two entities in a
        hundred: hold it against the model as it is by `gpner.agreement.require_agreement` before it serves.

        Raises:
            CheckpointError: If the folder holds no such model.
            ConfigError: If a device, a precision or a budget is out of range, or the device cannot multiply in int8.
        """
        model, tokenizer = load_checkpoint(path)
        chosen = choose_device(device)
        place(model, chosen, precision)
        extractor = cls(
            model,
            tokenizer,
            model_name=Path(path).resolve().name,
            # In int8, or with overlaps taken out, its answers are others.
            model_revision=checkpoint_revision(path) + "-int8" * (precision == "int8") + "-flat" * flat,
            max_batch_tokens=max_batch_tokens,
            flat=flat,
        )
        if chosen.type == "cuda":
            extractor._graphed = graphed(model)
        return extractor

    def extract(self, texts: Sequence[str]) -> list[Extraction]:
        """Extract the entities of each text, whatever its length.

        Raises:
            DocumentError: If a text is not valid Unicode.
            OutOfMemoryError: If the device cannot hold a batch; lower `max_batch_tokens`.
        """
        return self.run(self.tokenize(texts)).extractions

    def extract_iter(self, documents: Iterable[str]) -> Iterator[Extraction]:
        """Extract from a stream of texts, in their order, holding only a few batches of them in memory.

        Raises:
            DocumentError: If a text is not valid Unicode. This, and what the stream itself raises, comes after the
                results of all texts before it.
            OutOfMemoryError: If the device cannot hold a batch; lower `max_batch_tokens`.
        """
        for batch in self._batches(documents):
            yield from self.run(batch).extractions

    def candidates(self, documents: Iterable[str], floor: float) -> Iterator[dict[tuple[int, int, str], float]]:
        """Find what would be entities if the threshold of every label were `floor`.

        Those whose logit lies above the thresholds are exactly the entities that `extract_iter` finds in the same
        documents, unless it is to keep only flat ones.

        Yields:
            Of each text, start, end and label of the candidates, each with its logit.

        Raises:
            DocumentError: If a text is not valid Unicode, or there are millions of candidates.
            OutOfMemoryError: If the device cannot hold a batch; lower `max_batch_tokens`.
        """
        thresholds = torch.full_like(self._thresholds, floor)
        for batch in self._batches(documents):
            spans, _, _ = self._decode(batch, thresholds)
            for document, of_document in zip(batch, spans, strict=True):
                yield entity_logits(document, merge_windows(document.windows, of_document), self.labels)

    def _batches(self, documents: Iterable[str]) -> Iterator[list[TokenizedText]]:
        """Tokenize a stream and divide it; where it breaks off, all before that is handed out first."""
        held: list[TokenizedText] = []
        cost = 0
        try:
            for number, document in enumerate(documents):
                held.append(self._tokenize_one(number, document))
                cost += 1 + held[-1].n_window_tokens  # an empty text takes room too
                if cost >= PACKS_AHEAD * self.max_batch_tokens:
                    yield held
                    held, cost = [], 0
        except Exception:
            yield held
            raise
        yield held

    def _tokenize_one(self, number: int, document: str) -> TokenizedText:
        try:
            (tokenized,) = self.tokenize([document])
        except DocumentError as error:
            raise DocumentError(f"of a stream, counted from 0, number {number}: {error}") from error
        return tokenized

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Cut texts into windows of token ids. Safe to call from many threads."""
        return self._tokenizer(texts)

    def run(self, documents: Sequence[TokenizedText]) -> RunResult:
        """Extract from tokenized documents. Only one thread may run at a time.

        Windows of all documents are packed together by length, so a long document fills its own packs and short ones
        share theirs.
        """
        spans, forward_seconds, decode_seconds = self._decode(documents, self._thresholds)
        started = time.perf_counter()
        extractions = [self._assemble(*document) for document in zip(documents, spans, strict=True)]
        decode_seconds += time.perf_counter() - started
        flops = self.model.flops([len(window.token_ids) for document in documents for window in document.windows])
        return RunResult(extractions, forward_seconds, decode_seconds, flops)

    def _decode(
        self, documents: Sequence[TokenizedText], thresholds: Tensor
    ) -> tuple[list[list[list[Span]]], float, float]:
        """Find the spans of every window of every document; returns also the seconds of forward and of decoding."""
        windows = [window for document in documents for window in document.windows]
        spans: list[list[Span]] = [[] for _ in windows]
        forward_seconds = decode_seconds = 0.0
        for pack in pack_by_length([len(window.token_ids) for window in windows], self.max_batch_tokens):
            found, forward, decode = self._run_pack([windows[index] for index in pack], thresholds)
            forward_seconds += forward
            decode_seconds += decode
            for index, of_window in zip(pack, found, strict=True):
                spans[index] = of_window
        of_windows = iter(spans)
        of_documents = [[next(of_windows) for _ in document.windows] for document in documents]
        return of_documents, forward_seconds, decode_seconds

    def warm_up(self) -> None:
        """Do all first-time work, so that no document waits for it: run the largest pack, measure `peak_flops`."""
        word = "warm "
        self.extract([word * self.max_batch_tokens])
        self.peak_flops = measure_peak_flops(self.device, inference_dtype(self.device))

    def _run_pack(self, windows: Sequence[Window], thresholds: Tensor) -> tuple[list[list[Span]], float, float]:
        try:
            return self._forward_and_decode(windows, thresholds)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error) or type(error).__name__
        # Raised here and not above: with the old error it would keep alive what filled the memory.
        tokens = sum(len(window.token_ids) for window in windows)
        raise OutOfMemoryError(
            f"a batch must fit on {self.device}, {tokens} tokens did not; lower max_batch_tokens ({reason})"
        )

    @torch.inference_mode()
    def _forward_and_decode(
        self, windows: Sequence[Window], thresholds: Tensor
    ) -> tuple[list[list[Span]], float, float]:
        started = time.perf_counter()
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            # The host runs ahead of the GPU, so it asks the GPU how long the forward took, once the spans are here.
            stream = torch.cuda.current_stream(self.device)
            begun = stream.record_event(torch.cuda.Event(enable_timing=True))
        ids = torch.tensor([token for window in windows for token in window.token_ids], pin_memory=on_gpu)
        contents = []
        start = 0
        for window in windows:
            contents.append((start + window.prefix, start + window.prefix + window.n_content))
            start += len(window.token_ids)
        lengths = [len(window.token_ids) for window in windows]
        factors = self._score(ids, lengths)
        forward_seconds = time.perf_counter() - started
        if on_gpu:
            forwarded = stream.record_event(torch.cuda.Event(enable_timing=True))
        spans = decode_pack(factors, contents, thresholds, max_entity_tokens=self.model.config.max_entity_tokens)
        if on_gpu:
            forwarded.synchronize()  # waits only where there was nothing to decode
            forward_seconds = begun.elapsed_time(forwarded) / 1000
        return spans, forward_seconds, time.perf_counter() - started - forward_seconds

    def _score(self, token_ids: Tensor, lengths: Sequence[int]) -> SpanFactors:
        factors = None if self._graphed is None else self._graphed(token_ids, lengths)
        if factors is None:
            factors = self.model(token_ids.to(self.device, non_blocking=True), lengths).factors
        return factors

    def _assemble(self, document: TokenizedText, spans: Sequence[Sequence[Span]]) -> Extraction:
        merged = merge_windows(document.windows, spans)
        entities = to_entities(document, merged, self.labels, score_temperature=self.model.config.score_temperature)
        if self.flat:
            entities = keep_flat(entities)
        return Extraction(entities, tokens=document.n_tokens, windows=len(document.windows))


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in OUT_OF_MEMORY)


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device asked for; `auto` takes the first GPU and, without one, the CPU.

    Raises:
        ConfigError: If it is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, was: {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU that torch can use, there is none; use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def place(model: GlobalPointerForEntities, device: torch.device, precision: Precision = "auto") -> None:
    """Make a model ready for inference on a device; it can no longer be trained or saved.

    The encoder gets the precision that the device computes in, on a CPU with bf16 its weights another layout too, and
    in int8 its linear layers multiply in that; the head stays in fp32.

    Raises:
        ConfigError: If there is no such precision, or the device cannot multiply in it.
    """
    if precision not in ("auto", "int8"):
        raise ConfigError(f"precision must be auto or int8, was: {precision}")
    if precision == "int8" and (device.type != "cpu" or not multiplies_int8()):
        raise ConfigError(
            f"precision int8 needs a CPU with AVX512-VNNI or AMX, the model would run on: {device}; use precision auto"
        )
    dtype = inference_dtype(device)
    torch.nn.Module.to(model, device)
    torch.nn.Module.to(model.encoder, dtype)
    if precision == "int8":
        prepack_linears(model.encoder, Int8Linear)
    elif device.type == "cpu" and dtype is torch.bfloat16:
        prepack_linears(model.encoder)


def inference_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies in it, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32
