"""Linear layers for inference on the CPU: the same numbers as torch's own, and none left out."""

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AutoModel, BertConfig, ElectraConfig, RobertaConfig

from gpner.prepacked import PrepackedLinear, prepack_linears

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


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
def test_an_encoder_answers_the_same_and_has_no_other_linear_layer(config):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config).eval().bfloat16()
    ids = torch.randint(0, 1000, (1, 40))

    with torch.inference_mode():
        before = encoder(ids).last_hidden_state
        prepack_linears(encoder)
        after = encoder(ids).last_hidden_state

    kinds = [type(module) for module in encoder.modules()]
    assert nn.Linear not in kinds
    assert kinds.count(PrepackedLinear) >= 6
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)


def test_an_activation_is_applied_once():
    encoder = AutoModel.from_config(BertConfig(**SIZES)).eval().bfloat16()

    prepack_linears(encoder)

    layers = [module for module in encoder.modules() if isinstance(module, PrepackedLinear)]
    assert sum(layer.activation == "gelu" for layer in layers) == 2
    assert all(isinstance(layer.intermediate.intermediate_act_fn, nn.Identity) for layer in encoder.encoder.layer)
