"""Linear layers for inference on the CPU: the same numbers as torch's own, and none left out."""

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AutoModel, BertConfig, ElectraConfig, RobertaConfig

from gpner.prepacked import Int8Linear, PrepackedLinear, multiplies_int8, prepack_linears

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
needs_int8 = pytest.mark.skipif(not multiplies_int8(), reason="needs a CPU that multiplies int8 exactly")
KINDS = [PrepackedLinear, pytest.param(Int8Linear, marks=needs_int8)]


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_a_prepacked_layer_gives_what_the_layer_gives(rows, bias):
    torch.manual_seed(0)
    linear = nn.Linear(64, 96, bias=bias).bfloat16()
    states = torch.randn(2, rows, 64).bfloat16()

    with torch.inference_mode():
        expected = linear.float()(states.float())
        linear.bfloat16()
        plain = PrepackedLinear(linear, gelu=False)(states)
        activated = PrepackedLinear(linear, gelu=True)(states)

    torch.testing.assert_close(plain.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(activated.float(), nn.functional.gelu(expected), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES),
        RobertaConfig(**SIZES),
        ElectraConfig(**SIZES, embedding_size=32),
        AlbertConfig(**SIZES, embedding_size=32, hidden_act="gelu"),
        BertConfig(**SIZES, hidden_act="relu"),
    ],
    ids=["bert", "roberta", "electra", "albert", "relu"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_answers_the_same_and_has_no_other_linear_layer(config, kind):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config).eval().bfloat16()
    ids = torch.randint(0, 1000, (1, 40))

    with torch.inference_mode():
        before = encoder(ids).last_hidden_state
        prepack_linears(encoder, kind)
        after = encoder(ids).last_hidden_state

    kinds = [type(module) for module in encoder.modules()]
    assert nn.Linear not in kinds
    assert kinds.count(kind) >= 6
    bound = 2e-2 if kind is PrepackedLinear else 6e-2
    torch.testing.assert_close(after, before, rtol=bound, atol=bound)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_int8_gives_nearly_what_the_layer_gives(dtype, bias):
    torch.manual_seed(0)
    linear = nn.Linear(64, 96, bias=bias).to(dtype)
    states = torch.randn(2, 300, 64).to(dtype)

    with torch.inference_mode():
        plain = Int8Linear(linear, gelu=False)(states)
        activated = Int8Linear(linear, gelu=True)(states)
        expected = linear.float()(states.float())

    assert plain.dtype == activated.dtype == dtype
    torch.testing.assert_close(plain.float(), expected, rtol=0, atol=3e-2)
    torch.testing.assert_close(activated.float(), nn.functional.gelu(expected), rtol=0, atol=3e-2)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_int8_the_largest_values_of_a_token_keep_their_sign_and_a_token_of_zeros_stays_one(dtype):
    torch.manual_seed(0)
    linear = nn.Linear(64, 64, bias=False).to(dtype)
    states = torch.randn(20_000, 64).mul(torch.logspace(-4, 4, 20_000)[:, None]).to(dtype)
    states[7] = 0
    with torch.inference_mode():
        linear.weight.copy_(torch.eye(64))
        linear.weight[5] = 0

        error = Int8Linear(linear, gelu=False)(states) - linear(states)

    assert (error.abs() <= 0.01 * states.abs().amax(1, keepdim=True)).all()


@needs_int8
def test_in_int8_a_token_has_the_same_bits_whatever_stands_beside_it():
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(64, 96).bfloat16(), gelu=True)
    states = torch.randn(301, 64).bfloat16()
    beside = torch.cat((states[:7], 1000 * torch.randn(50, 64).bfloat16()))

    with torch.inference_mode():
        together = layer(states)
        alone = torch.cat([layer(states[row : row + 1]) for row in range(len(states))])
        mixed = layer(beside)

    assert torch.equal(together, alone)
    assert torch.equal(together[:7], mixed[:7])


def test_an_activation_is_applied_once():
    encoder = AutoModel.from_config(BertConfig(**SIZES)).eval().bfloat16()

    prepack_linears(encoder)

    layers = [module for module in encoder.modules() if isinstance(module, PrepackedLinear)]
    assert sum(layer.activation == "gelu" for layer in layers) == 2
    assert all(isinstance(layer.intermediate.intermediate_act_fn, nn.Identity) for layer in encoder.encoder.layer)
