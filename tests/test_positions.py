import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
)

from gpner.errors import ConfigError, EncoderError, ShapeError
from gpner.positions import extend_encoder, extend_positions, position_offset

POSITIONS = 32
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
ROBERTA_SIZES = SIZES | {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}
EXTENSIBLE = [
    BertConfig(**SIZES, max_position_embeddings=POSITIONS),
    RobertaConfig(**ROBERTA_SIZES),
    XLMRobertaConfig(**ROBERTA_SIZES),
    AlbertConfig(**SIZES, embedding_size=8, max_position_embeddings=POSITIONS),
    ElectraConfig(**SIZES, embedding_size=8, max_position_embeddings=POSITIONS),
    DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=POSITIONS),
]


def build(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(type(config).from_dict(config.to_dict())).eval()


@pytest.fixture(params=EXTENSIBLE, ids=lambda config: config.model_type)
def encoder(request) -> PreTrainedModel:
    return build(request.param)


def read(encoder: PreTrainedModel, length: int) -> Tensor:
    """States of a fixed text, positions given as the packed model gives them."""
    input_ids = torch.arange(length)[None] % 40 + 5
    position_ids = torch.arange(length)[None] + position_offset(encoder)
    with torch.no_grad():
        return encoder(input_ids=input_ids, position_ids=position_ids).last_hidden_state


def reference_hierarchy(table: Tensor, length: int, alpha: float) -> Tensor:
    """bert4keras' PositionEmbedding.hierarchical, position by position."""
    n = len(table)
    base = (table - alpha * table[:1]) / (1 - alpha)
    return torch.stack([alpha * base[i // n] + (1 - alpha) * base[i % n] for i in range(length)])


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.7])
def test_hierarchical_positions_anchored_on_the_first_equal_the_reference(alpha):
    table = torch.randn(9, 5)

    extended = extend_positions(table, 81, alpha=alpha, anchor="first")

    torch.testing.assert_close(extended, reference_hierarchy(table, 81, alpha))


def test_hierarchical_positions_anchored_on_the_mean_differ_from_the_fine_row_by_the_coarse_one():
    table = torch.randn(9, 5)

    extended = extend_positions(table, 81)

    expected = table[4] + 0.4 / 0.6 * (table[7] - table[1:].mean(dim=0))
    torch.testing.assert_close(extended[7 * 9 + 4], expected)


def test_the_mean_anchor_keeps_further_rows_small_when_the_first_row_is_an_outlier():
    table = 0.1 * torch.randn(64, 32)
    table[0] += 3

    by_mean = extend_positions(table, 512, anchor="mean")[64:].norm(dim=1)
    by_first = extend_positions(table, 512, anchor="first")[64:].norm(dim=1)

    # Every 64th fine position is the outlier itself.
    assert by_mean.median() < 2 * table[1:].norm(dim=1).median()
    assert by_first.median() > 5 * table[1:].norm(dim=1).median()


@pytest.mark.parametrize("method", ["hierarchical", "tiled", "random"])
@pytest.mark.parametrize("anchor", ["mean", "first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [12, 13, 100])
def test_the_pretrained_rows_stay_to_the_bit(method, anchor, dtype, length):
    table = torch.randn(12, 8).to(dtype)

    extended = extend_positions(table, length, method=method, anchor=anchor)

    assert extended.shape == (length, 8)
    assert extended.dtype == dtype
    assert torch.equal(extended[:12], table)
    assert extended.isfinite().all()


def test_tiled_positions_begin_anew_after_the_last_row():
    table = torch.randn(12, 4)

    longer = extend_positions(table, 30, method="tiled")

    assert torch.equal(longer, torch.cat((table, table, table[:6])))


def test_random_positions_have_the_asked_spread_and_depend_on_the_seed_alone():
    table = torch.zeros(10, 64)

    extended = extend_positions(table, 1000, method="random", std=0.05, seed=3)

    torch.manual_seed(17)
    assert torch.equal(extended, extend_positions(table, 1000, method="random", std=0.05, seed=3))
    assert not torch.equal(extended, extend_positions(table, 1000, method="random", std=0.05, seed=4))
    assert extended[10:].std().item() == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, "alpha must lie between 0 and 1 and not be 0.5, was: 0.5"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 1"),
        ({"alpha": float("nan")}, "alpha must lie between 0 and 1"),
        ({"anchor": "last"}, "anchor must be 'mean' or 'first', was: 'last'"),
        ({"method": "linear"}, "method must be 'hierarchical', 'tiled' or 'random', was: 'linear'"),
        ({"length": 26}, "a table of 5 positions can be extended to at most 25, asked for: 26"),
        ({"length": 4}, "the extended table must keep all 5 rows, asked for: 4"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        extend_positions(torch.randn(5, 3), **({"length": 20} | options))


def test_a_tensor_that_is_no_table_is_refused():
    with pytest.raises(ShapeError, match=r"must be of shape \(positions, hidden_size\), was: \(5,\)"):
        extend_positions(torch.randn(5), 20)


def test_an_extended_encoder_reads_what_fitted_before_to_the_bit(encoder):
    before = read(encoder, POSITIONS)

    extend_encoder(encoder, 150)

    assert torch.equal(read(encoder, POSITIONS), before)
    assert read(encoder, 150).isfinite().all()


def test_an_extended_encoder_finds_its_positions_itself(encoder):
    extend_encoder(encoder, 150)
    input_ids = torch.arange(150)[None] % 40 + 5

    with torch.no_grad():
        states = encoder(input_ids=input_ids).last_hidden_state

    torch.testing.assert_close(states, read(encoder, 150))


def test_an_extended_encoder_is_saved_and_loaded_as_an_ordinary_one(encoder, tmp_path):
    extend_encoder(encoder, 150)
    encoder.save_pretrained(tmp_path)

    loaded = AutoModel.from_pretrained(tmp_path).eval()

    assert loaded.config.max_position_embeddings == 150 + position_offset(encoder)
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(read(loaded, 150), read(encoder, 150))


@pytest.mark.parametrize("config", EXTENSIBLE[1:3], ids=lambda config: config.model_type)
def test_rows_before_roberta_s_first_position_stay_out_of_the_hierarchy(config):
    encoder = build(config)
    before = encoder.embeddings.position_embeddings.weight.detach().clone()

    extend_encoder(encoder, 150, alpha=0.3, anchor="first")

    table = encoder.embeddings.position_embeddings
    assert position_offset(encoder) == 2
    assert torch.equal(table.weight[:2], before[:2])
    assert table.padding_idx == 1
    assert torch.equal(table.weight[2:], extend_positions(before[2:], 150, alpha=0.3, anchor="first"))


def test_a_table_that_was_frozen_or_trained_stays_so():
    encoder = build(EXTENSIBLE[0])
    encoder.embeddings.position_embeddings.weight.requires_grad_(False)

    extend_encoder(encoder, 40)

    assert not encoder.embeddings.position_embeddings.weight.requires_grad
    assert encoder.embeddings.word_embeddings.weight.requires_grad


def test_a_context_shorter_than_the_table_is_refused(encoder):
    with pytest.raises(ConfigError, match="context must be at least the 32 positions of the encoder, was: 31"):
        extend_encoder(encoder, 31)


def test_a_refused_extension_leaves_the_encoder_as_it_was(encoder):
    before = read(encoder, POSITIONS)

    with pytest.raises(ConfigError, match="can be extended to at most 1024"):
        extend_encoder(encoder, 1025)

    assert encoder.config.max_position_embeddings == POSITIONS + position_offset(encoder)
    assert torch.equal(read(encoder, POSITIONS), before)


@pytest.mark.parametrize(
    "config",
    [
        DebertaV2Config(**SIZES, relative_attention=True, position_biased_input=False, pos_att_type=["c2p", "p2c"]),
        ModernBertConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
def test_an_encoder_without_absolute_positions_needs_no_extension(config):
    encoder = build(config)

    with pytest.raises(EncoderError, match=f"{config.model_type} has none: it needs no extension"):
        extend_encoder(encoder, 1000)
    assert position_offset(encoder) == 0


def test_a_t5_encoder_needs_no_extension():
    encoder = T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2))

    with pytest.raises(EncoderError, match="t5 has none: it needs no extension"):
        extend_encoder(encoder, 1000)


def test_a_table_that_is_bound_to_relative_positions_is_refused():
    encoder = build(DebertaV2Config(**SIZES, relative_attention=True, max_position_embeddings=POSITIONS))

    with pytest.raises(EncoderError, match="must be the only thing that max_position_embeddings sizes"):
        extend_encoder(encoder, 1000)


def test_an_extended_encoder_says_in_its_config_where_its_rows_come_from(encoder, tmp_path):
    extend_encoder(encoder, 2 * POSITIONS, alpha=0.3, anchor="first")
    encoder.save_pretrained(tmp_path)

    recorded = AutoConfig.from_pretrained(tmp_path).position_extension
    assert recorded == {"method": "hierarchical", "from": POSITIONS, "alpha": 0.3, "anchor": "first"}
