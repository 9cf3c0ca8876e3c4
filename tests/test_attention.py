"""Attention inside an attention window, against a mask over the whole document."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from gpner.attention import Pack, packed_attention
from gpner.errors import EncoderError
from gpner.model import build_encoder
from gpner.positions import extend_encoder
from tests.models import tiny_config, tiny_model

LENGTHS = (3, 40, 256, 700, 1, 257, 1100)
WINDOWS = [1, 7, 100, 255, 300, 5000]


def random_heads(requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    shape = (1, 4, sum(LENGTHS), 8)
    return [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for _ in range(3)]


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def one_by_one(heads, window):
    """Each document alone, with a mask over all pairs of its tokens. Shape: (1, tokens, heads, head size)."""
    pieces, start = [], 0
    for length in LENGTHS:
        query, key, value = (tensor[:, :, start : start + length] for tensor in heads)
        distance = (torch.arange(length)[:, None] - torch.arange(length)[None]).abs()
        seen = distance <= (length if window is None else window)
        pieces.append(scaled_dot_product_attention(query, key, value, attn_mask=seen))
        start += length
    return torch.cat(pieces, dim=2).transpose(1, 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("window", [*WINDOWS, None])
def test_a_token_sees_its_window_and_nothing_else(window, dtype, tolerance):
    heads = random_heads()
    narrow = [tensor.to(dtype) for tensor in heads]

    with torch.no_grad():
        found, _ = packed_attention(None, *narrow, None, pack=Pack(LENGTHS, torch.device("cpu"), window))

    torch.testing.assert_close(found.float(), one_by_one(heads, window), atol=tolerance, rtol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("window", [300, None])
def test_a_long_document_gets_the_same_bits_from_any_number_of_threads(window, restored_threads):
    length = 5000  # so that a block holds as many heads as there are threads
    heads = torch.randn(3, 1, 4, length, 8, generator=torch.Generator().manual_seed(0)).bfloat16().unbind()
    pack = Pack((length,), torch.device("cpu"), window)

    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(packed_attention(None, *heads, None, pack=pack)[0])

    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("window", [*WINDOWS, None])
def test_inference_gives_the_bits_of_training(window):
    lengths = [length for length in LENGTHS if length <= 700]
    heads = [tensor[:, :, : sum(lengths)].bfloat16() for tensor in random_heads()]
    trained = [tensor.clone().requires_grad_() for tensor in heads]
    pack = Pack(tuple(lengths), torch.device("cpu"), window)

    alone, _ = packed_attention(None, *heads, None, pack=pack)
    with_gradients, _ = packed_attention(None, *trained, None, pack=pack)

    assert torch.equal(alone, with_gradients)


@pytest.mark.parametrize(("dtype", "atol", "rtol"), [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 4e-2, 4e-2)])
@pytest.mark.parametrize("window", [*WINDOWS, None])
def test_gradients_through_a_window_are_those_of_the_mask(window, dtype, atol, rtol):
    heads = random_heads(requires_grad=True)
    weights = torch.randn(1, sum(LENGTHS), 4, 8, generator=torch.Generator().manual_seed(1))

    pack = Pack(LENGTHS, torch.device("cpu"), window)
    found, _ = packed_attention(None, *(tensor.to(dtype) for tensor in heads), None, pack=pack)
    gradients = torch.autograd.grad((found * weights).sum(), heads)

    expected = torch.autograd.grad((one_by_one(heads, window) * weights).sum(), heads)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=rtol)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_a_single_one_of_the_heads_may_be_trained(trained):
    lengths = (512, 300)
    heads = [tensor[:, :, : sum(lengths)].bfloat16() for tensor in random_heads()]
    alone = [tensor.clone().requires_grad_(place == trained) for place, tensor in enumerate(heads)]
    together = [tensor.clone().requires_grad_() for tensor in heads]
    pack = Pack(lengths, torch.device("cpu"))

    for three in (alone, together):
        packed_attention(None, *three, None, pack=pack)[0].float().square().sum().backward()

    assert torch.equal(alone[trained].grad, together[trained].grad)


@torch.no_grad()
def test_what_lies_beyond_the_windows_of_all_layers_is_not_felt():
    model = tiny_model(context=512)
    model.encoder.config.attention_window = 10
    model.eval()
    ids = torch.randint(5, 120, (400,), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[300:] = 7
    reach = 10 * model.encoder.config.num_hidden_layers

    one, two = (model(tokens, [400]).factors.start_bias for tokens in (ids, other))

    torch.testing.assert_close(one[: 300 - reach], two[: 300 - reach], atol=0, rtol=0)
    assert not torch.equal(one[300 - reach : 300], two[300 - reach : 300])


def test_a_window_is_saved_with_the_encoder_and_counted_in_its_operations(tmp_path):
    model = tiny_model()
    full = model.flops([1000])
    extend_encoder(model.encoder, 1024, method="tiled", attention_window=50)

    model.encoder.save_pretrained(tmp_path)

    loaded = type(model.encoder.config).from_pretrained(tmp_path)
    assert loaded.attention_window == 50
    assert loaded.position_extension == {"method": "tiled", "from": 512}
    config = model.encoder.config
    assert full - model.flops([1000]) == 4 * config.hidden_size * config.num_hidden_layers * 1000 * (1000 - 101)


@pytest.mark.parametrize("window", [0, -3, "128", 1.5, True])
def test_an_attention_window_that_is_no_number_of_tokens_is_refused(window):
    config = tiny_config("bert")
    config.attention_window = window

    with pytest.raises(EncoderError, match="attention_window must be a number of tokens, at least 1, was"):
        build_encoder(config)
