"""Masked language models over packs: equal to one by one, logits of hidden tokens only, losses as transformers' own."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, BertForPreTraining, BertModel, TrainingArguments

from gpner.pretraining.data import MaskedPacks, cut_windows
from gpner.pretraining.model import load_masked_model, masked_logits, new_masked_model
from gpner.pretraining.texts import TextDocument
from gpner.pretraining.trainer import MaskedTrainer
from tests.models import FAMILIES, tiny_config

SENTENCES = ["the house of commons met in london.", "ada wrote a letter to charles.", "rain fell on the old town."]


def documents(*texts):
    return [TextDocument(str(number), (text,)) for number, text in enumerate(texts)]


def packs_of(texts, tokenizer, objective=None, max_tokens=4096, capacity=40):
    windows = cut_windows(documents(*texts), tokenizer, capacity)
    return MaskedPacks(windows, tokenizer, objective=objective, max_tokens=max_tokens, seed=0)


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_a_pack_is_that_of_its_documents_run_one_by_one(family, wordpiece_tokenizer):
    model = randomised(new_masked_model(tiny_config(family), wordpiece_tokenizer, None))
    batch = packs_of(SENTENCES, wordpiece_tokenizer)[0]
    plain = AutoModelForMaskedLM.from_config(tiny_vocabulary(family, wordpiece_tokenizer)).eval()
    plain.load_state_dict(model.state_dict())

    packed = cross_entropy(masked_logits(model, batch)[0], batch["labels"], reduction="none")

    alone = []
    for ids, chosen, labels in one_by_one(batch):
        logits = plain(input_ids=ids[None]).logits[0]
        alone.append(cross_entropy(logits[chosen], labels, reduction="none"))
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def tiny_vocabulary(family, tokenizer):
    config = tiny_config(family)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    return config


def one_by_one(batch):
    start = 0
    for length in batch["lengths"].tolist():
        inside = (batch["chosen"] >= start) & (batch["chosen"] < start + length)
        yield batch["input_ids"][start : start + length], batch["chosen"][inside] - start, batch["labels"][inside]
        start += length


@pytest.mark.parametrize(("family", "objective"), [("bert", "nsp"), ("albert", "sop")])
def test_pairs_of_a_pack_are_classified_as_they_are_alone(family, objective, wordpiece_tokenizer):
    model = randomised(new_masked_model(tiny_config(family), wordpiece_tokenizer, objective))
    batch = packs_of([" ".join(SENTENCES), "one. two. three."], wordpiece_tokenizer, objective)[0]

    logits, pairs = masked_logits(model, batch)

    start = 0
    for row, length in enumerate(batch["lengths"].tolist()):
        stop = start + length
        inside = (batch["chosen"] >= start) & (batch["chosen"] < stop)
        single = {
            "input_ids": batch["input_ids"][start:stop],
            "token_type_ids": batch["token_type_ids"][start:stop],
            "lengths": torch.tensor([length]),
            "chosen": batch["chosen"][inside] - start,
            "torn": batch["torn"][row : row + 1],
        }
        alone, pair = masked_logits(model, single)
        torch.testing.assert_close(logits[inside], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pairs[row : row + 1], pair, atol=1e-5, rtol=1e-5)
        start = stop


def test_only_hidden_tokens_reach_the_vocabulary(wordpiece_tokenizer):
    model = new_masked_model(tiny_config("bert"), wordpiece_tokenizer, None)
    batch = packs_of(SENTENCES, wordpiece_tokenizer)[0]
    rows = []
    model.cls.predictions.decoder.register_forward_hook(lambda _, __, logits: rows.append(logits.shape[-2]))

    masked_logits(model, batch)

    assert rows == [len(batch["labels"])]
    assert len(batch["labels"]) < len(batch["input_ids"]) / 4


def test_the_losses_of_words_and_pairs_are_added_as_transformers_adds_them(wordpiece_tokenizer, tmp_path):
    model = randomised(new_masked_model(tiny_config("bert"), wordpiece_tokenizer, "nsp"))
    plain = BertForPreTraining(tiny_vocabulary("bert", wordpiece_tokenizer)).eval()
    plain.load_state_dict(model.state_dict())
    packs = packs_of([" ".join(SENTENCES), "one. two. three."], wordpiece_tokenizer, "nsp", max_tokens=31)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    trainer = MaskedTrainer(model=model, args=arguments, train_dataset=packs, data_collator=lambda items: items[0])

    for batch in (packs[0], packs[1]):  # of one pair each
        labels = torch.full_like(batch["input_ids"], -100).index_copy(0, batch["chosen"], batch["labels"])
        expected = plain(
            input_ids=batch["input_ids"][None],
            token_type_ids=batch["token_type_ids"][None],
            labels=labels[None],
            next_sentence_label=batch["torn"],
        )
        torch.testing.assert_close(trainer.compute_loss(model, batch), expected.loss, atol=1e-5, rtol=1e-5)


def test_every_hidden_token_of_a_step_weighs_the_same_whatever_its_pack(wordpiece_tokenizer, tmp_path):
    model = randomised(new_masked_model(tiny_config("bert"), wordpiece_tokenizer, None))
    texts = [" ".join(SENTENCES), "one. two. three."]
    whole = packs_of(texts, wordpiece_tokenizer)
    split = packs_of(texts, wordpiece_tokenizer, max_tokens=31)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    trainer = MaskedTrainer(model=model, args=arguments, train_dataset=whole, data_collator=lambda items: items[0])

    n_hidden = torch.tensor(sum(len(split[number]["labels"]) for number in range(2)))
    losses = [trainer.compute_loss(model, split[number], num_items_in_batch=n_hidden) for number in range(2)]

    assert len(split) == 2
    torch.testing.assert_close(sum(losses), trainer.compute_loss(model, whole[0]), atol=1e-5, rtol=1e-5)


def test_an_encoder_without_a_head_gets_one_that_shares_the_embeddings(tmp_path, wordpiece_tokenizer):
    torch.manual_seed(0)
    encoder = BertModel(tiny_vocabulary("bert", wordpiece_tokenizer))
    encoder.save_pretrained(tmp_path)

    model, new_weights = load_masked_model(tmp_path)

    assert "cls.predictions.transform.dense.weight" in new_weights
    assert all(name.startswith("cls.") for name in new_weights)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight)
