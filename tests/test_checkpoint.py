"""Checkpoints on disk: exact round trips, and clear words for everything that is not one."""

import json
import os
import pickle
import re
import shutil
import stat
from itertools import takewhile

import pytest
import torch

from gpner.checkpoint import checkpoint_revision, load_checkpoint, load_tokenizer, save_checkpoint
from gpner.errors import CheckpointError, ConfigError, EncoderError
from gpner.model import GlobalPointerForEntities
from gpner.model_folder import read_config
from tests.models import tiny_model, tiny_text_model


@pytest.fixture
def folder(tmp_path, wordpiece_tokenizer):
    save_checkpoint(tiny_text_model(wordpiece_tokenizer), wordpiece_tokenizer, tmp_path / "model")
    return tmp_path / "model"


def as_nobody(act):
    """What an act complains of in a process without the rights of the superuser, who may read everything."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            act()
        except CheckpointError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as complaint:
        return complaint.read()


def change_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    content.update(changes)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("head", ["efficient_global_pointer", "global_pointer"])
def test_a_model_survives_saving_and_loading_to_the_bit(tmp_path, family, head):
    model = tiny_model(family, head=head, thresholds=[0.5, -0.5], max_entity_tokens=30)

    model.save_pretrained(tmp_path)
    loaded = GlobalPointerForEntities.from_pretrained(tmp_path).eval()

    for option in ("labels", "head", "head_size", "context", "stride", "thresholds", "max_entity_tokens"):
        assert getattr(loaded.config, option) == getattr(model.config, option)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    ids = torch.arange(5, 45)
    with torch.no_grad():
        assert torch.equal(model(ids, [40]).factors.query, loaded(ids, [40]).factors.query)


def test_a_checkpoint_holds_safetensors_and_its_tokenizer(folder):
    names = {file.name for file in folder.iterdir()}

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    model, tokenizer = load_checkpoint(folder)
    assert tokenizer.is_fast
    assert model.config.labels == ["PER", "ORG"]


def test_whoever_may_read_the_configuration_may_read_the_weights(folder):
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}

    assert modes["model.safetensors"] == modes["config.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"must hold a config\.json.*nowhere.*gpner train"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", "config.json", "model.safetensors"])
def test_what_may_not_be_read_is_named(folder, name):
    for parent in takewhile(lambda parent: not parent.stat().st_mode & stat.S_IXOTH, folder.parents):
        parent.chmod(0o755)
    (folder / name).chmod(0)

    complaint = as_nobody(lambda: read_config(folder))

    (folder / name).chmod(0o755)
    assert complaint.startswith("a model folder must be readable for who runs the model")
    assert f"{folder / name}" in complaint
    assert complaint.endswith(f"is not; try `chmod -R a+rX {folder}`")


def test_a_pickle_is_never_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))

    with pytest.raises(CheckpointError, match=r"must be safetensors.*pytorch_model\.bin.*never read"):
        load_checkpoint(folder)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"must hold model\.safetensors"):
        load_checkpoint(folder)


def test_broken_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")

    with pytest.raises(CheckpointError, match=r"model\.safetensors must hold the weights"):
        load_checkpoint(folder)


def test_weights_of_another_shape_are_named(folder):
    change_config(folder, labels=["A", "B", "C"])

    with pytest.raises(CheckpointError, match=r"head\.label_projection\.bias is \(4,\), not \(6,\), head\.label_proj"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 7}, {"num_attention_heads": 0}, {"hidden_act": "loud"}, {"vocab_size": -1}]
)
def test_an_encoder_that_cannot_be_built_is_refused(folder, changes):
    encoder = json.loads((folder / "config.json").read_text())["encoder_config"]
    change_config(folder, encoder_config={**encoder, **changes})

    with pytest.raises(EncoderError, match=r"must be one that can be built, this bert cannot: .*correct its config"):
        load_checkpoint(folder)


def test_an_unknown_key_is_refused_with_the_likely_one(folder):
    change_config(folder, max_entity_token=5)

    with pytest.raises(
        ConfigError, match=r"unknown key 'max_entity_token' in config\.json; did you mean 'max_entity_tokens'"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "changes",
    [{"head": "crf"}, {"head_size": "64"}, {"labels": "PER"}, {"encoder_config": {"model_type": "unheard-of"}}],
)
def test_values_of_the_wrong_kind_are_refused(folder, changes):
    change_config(folder, **changes)

    with pytest.raises(ConfigError, match=r"config\.json must hold values of the right kind"):
        load_checkpoint(folder)


def test_whole_numbers_are_taken_where_fractions_are_expected(folder):
    change_config(folder, thresholds=[0, 1], score_temperature=1)

    model, _ = load_checkpoint(folder)

    assert (model.config.thresholds, model.config.score_temperature) == ([0, 1], 1)


def test_missing_labels_are_refused(folder):
    change_config(folder, labels=[])

    with pytest.raises(ConfigError, match="labels must name at least one label"):
        load_checkpoint(folder)


def test_the_checkpoint_of_another_kind_of_model_is_refused(tmp_path):
    tiny_model().encoder.save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match=r"must be of a gpner model.*its model_type is: bert.*gpner train"):
        load_checkpoint(tmp_path)


def test_a_config_that_is_not_json_is_refused(folder):
    (folder / "config.json").write_text("{")

    with pytest.raises(CheckpointError, match=r"config\.json must be JSON"):
        load_checkpoint(folder)


def test_a_missing_tokenizer_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="must have its tokenizer beside it"):
        load_tokenizer(tmp_path)


def test_an_encoder_without_a_tokenizer_is_refused_and_not_read_as_unknown_words(tmp_path):
    tiny_model("bert").encoder.save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="must have its tokenizer beside it"):
        load_tokenizer(tmp_path)


def test_the_revision_follows_weights_and_configuration_and_not_the_folder(tmp_path, folder):
    revision = checkpoint_revision(folder)
    copied = shutil.copytree(folder, tmp_path / "copy")
    same = checkpoint_revision(copied)
    change_config(copied, thresholds=[0.5, 0.5])
    tuned = checkpoint_revision(copied)
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")

    assert re.fullmatch("[0-9a-f]{12}", revision)
    assert same == revision
    assert len({revision, tuned, checkpoint_revision(copied)}) == 3


def test_a_folder_without_a_configuration_has_no_revision(tmp_path):
    with pytest.raises(CheckpointError, match=r"must hold config\.json, in .* it cannot be read"):
        checkpoint_revision(tmp_path)
