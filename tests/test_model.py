"""The encoder in packs against the same encoder one document at a time."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    MobileBertConfig,
    ModernBertConfig,
    T5Config,
)

from gpner.config import GlobalPointerConfig
from gpner.errors import CheckpointError, ConfigError, EncoderError, ShapeError
from gpner.model import GlobalPointerForEntities, build_encoder
from tests.models import FAMILIES, SIZES, tiny_config, tiny_model

# Short ones that share a batched call, equal ones, one of a single token, and two beyond a block of queries.
LENGTHS = [3, 17, 16, 1, 300, 16, 512, 31]


def random_ids(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(5, 120, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_packed_encoder_equals_transformers_own_one_document_at_a_time(family):
    model = tiny_model(family)
    plain = AutoModel.from_config(tiny_config(family), attn_implementation="eager").eval()
    plain.load_state_dict(model.encoder.state_dict(), strict=False)
    ids = random_ids(sum(LENGTHS))

    factors = model(ids, LENGTHS).factors

    start = 0
    for length in LENGTHS:
        states = plain(ids[None, start : start + length]).last_hidden_state[0]
        expected = model.head(states, torch.arange(length))
        for name in ("query", "key", "start_bias", "end_bias"):
            found = getattr(factors, name)[start : start + length]
            torch.testing.assert_close(found, getattr(expected, name), atol=1e-5, rtol=1e-5)
        start += length


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_changing_one_document_changes_no_other_by_a_bit(family):
    model = tiny_model(family)
    ids = random_ids(sum(LENGTHS))
    changed_document = 4
    start = sum(LENGTHS[:changed_document])
    stop = start + LENGTHS[changed_document]
    changed_ids = ids.clone()
    changed_ids[start:stop] = random_ids(stop - start, seed=2)

    before, after = model(ids, LENGTHS).factors, model(changed_ids, LENGTHS).factors

    for name in ("query", "key", "start_bias", "end_bias"):
        old, new = getattr(before, name), getattr(after, name)
        assert torch.equal(old[:start], new[:start])
        assert torch.equal(old[stop:], new[stop:])
        assert not torch.equal(old[start:stop], new[start:stop])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_pack_equal_those_of_its_documents(family):
    model = tiny_model(family).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    lengths = [9, 300, 16]
    ids = random_ids(sum(lengths))
    contents = torch.tensor([[1, length - 1] for length in lengths])
    spans = torch.tensor([[0, 0, 1, 3], [1, 1, 5, 5], [1, 0, 250, 290], [2, 1, 0, 13]])

    model(ids, lengths, contents, spans).loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    start = 0
    for document, length in enumerate(lengths):
        of_document = spans[spans[:, 0] == document].clone()
        of_document[:, 0] = 0
        loss = model(ids[start : start + length], [length], contents[document : document + 1], of_document).loss
        (loss / len(lengths)).backward()
        start += length

    for name, gradient in packed.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        DebertaV2Config(**SIZES),
        T5Config(vocab_size=120, d_model=32, num_layers=1, num_heads=4, d_ff=48),
        GPT2Config(vocab_size=120, n_embd=32, n_layer=1, n_head=4),
    ],
)
def test_an_encoder_that_cannot_run_packed_is_refused(config):
    with pytest.raises(EncoderError, match=config.model_type):
        build_encoder(config)


@torch.no_grad()
def test_an_encoder_with_windowed_attention_is_refused_before_it_answers_wrongly():
    config = ModernBertConfig(**SIZES, local_attention=8, pad_token_id=0, cls_token_id=1, sep_token_id=2)

    with pytest.raises(EncoderError, match=r"sliding_window|modernbert"):
        GlobalPointerForEntities(GlobalPointerConfig(encoder_config=config, labels=["A"], context=64, stride=8))(
            random_ids(20), [20]
        )


def test_an_encoder_that_mixes_neighbouring_tokens_outside_its_attention_is_refused(tmp_path):
    config = MobileBertConfig(**SIZES, embedding_size=16, intra_bottleneck_size=32, true_hidden_size=32)
    AutoModel.from_config(config).save_pretrained(tmp_path)

    with pytest.raises(EncoderError, match="must not see each other, in mobilebert they do"):
        GlobalPointerForEntities.from_encoder(tmp_path, labels=["A"])


def test_an_encoder_without_its_weights_is_refused_instead_of_trained_from_chance(tmp_path):
    tiny_model().encoder.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"old_{name}": tensor for name, tensor in weights.items()}, tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError, match="must bring all its weights"):
        GlobalPointerForEntities.from_encoder(tmp_path, labels=["A"])


def test_a_pack_never_reaches_an_attention_function_that_would_mix_its_documents():
    model = tiny_model()
    model.encoder.set_attn_implementation("sdpa")

    with pytest.raises(EncoderError, match="attention must be gpner_packed, was set to: sdpa"):
        model(random_ids(10), [5, 5])


@pytest.mark.parametrize("bias_from", ["projection", "hidden"])
def test_a_new_model_takes_no_span_for_an_entity(bias_from, tmp_path):
    config = GlobalPointerConfig(encoder_config=tiny_config("bert"), labels=["PER", "ORG"], bias_from=bias_from)
    model = GlobalPointerForEntities(config)

    factors = model(torch.arange(5, 105), [100]).factors

    logits = torch.einsum("igd,jgd->ij", factors.query, factors.key)[..., None]
    logits = logits + factors.start_bias[:, None] + factors.end_bias[None]
    assert logits.mean().item() == pytest.approx(-8, abs=0.5)
    model.save_pretrained(tmp_path)
    loaded = GlobalPointerForEntities.from_pretrained(tmp_path)
    assert torch.equal(loaded.head.label_projection.bias, model.head.label_projection.bias)


def test_lengths_that_do_not_add_up_are_refused():
    with pytest.raises(ShapeError, match="add up to the 10 tokens given, was: 9"):
        tiny_model()(random_ids(10), [4, 5])


def test_a_document_past_the_context_is_refused_instead_of_cut():
    with pytest.raises(ShapeError, match="1 to 64 tokens"):
        tiny_model(context=64)(random_ids(65), [65])


def test_a_context_past_the_position_table_is_refused():
    with pytest.raises(ConfigError, match=r"at most the 512 positions of the encoder, was: 1024.*gpner extend"):
        tiny_model(context=1024)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "at least one label"),
        ({"labels": ["A", "A"]}, "each once"),
        ({"head_size": 63}, "head_size must be even for rotary positions, was: 63"),
        ({"contxt": 4}, "unknown key 'contxt'.*did you mean 'context'"),
        ({"thresholds": [0.0]}, r"one logit per label \(2\), had: 1"),
        ({"stride": 512}, "stride between 0"),
    ],
)
def test_a_configuration_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny_model(**options)


@pytest.mark.parametrize(("length", "mflop_per_token"), [(512, 188.7), (2048, 245.4), (4096, 320.9)])
def test_bert_base_costs_the_known_operations_per_token(length, mflop_per_token):
    with torch.device("meta"):
        encoder = BertConfig(max_position_embeddings=4096)
        model = GlobalPointerForEntities(GlobalPointerConfig(encoder_config=encoder, labels=["A"], context=4096))

    per_token = model.flops([length, length]) / (2 * length)

    assert per_token / 1e6 == pytest.approx(mflop_per_token, abs=0.06)
