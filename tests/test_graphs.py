"""What a CUDA graph computes on: a pack filled up to a fixed number of tokens and documents. On a GPU: test_gpu.py."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from gpner.graphs import MOST_DOCUMENTS, SIZES, fill, score, size_for
from tests.models import FAMILIES, tiny_model

BY_BORDERS = "by_borders"


def attention_by_borders(module, query, key, value, attention_mask, scaling=None, pack=None, **kwargs):
    """What the GPU's kernel does: read the borders alone, and leave what is in no document as it lies in memory."""
    assert attention_mask is None
    context = torch.full_like(query, torch.nan)
    for start, stop in zip(pack.cumulative[:-1].tolist(), pack.cumulative[1:].tolist(), strict=True):
        assert stop - start <= pack.longest
        if stop > start:
            of_document = (tensor[:, :, start:stop] for tensor in (query, key, value))
            context[:, :, start:stop] = scaled_dot_product_attention(*of_document, scale=scaling)
    return context.transpose(1, 2), None


AttentionInterface.register(BY_BORDERS, attention_by_borders)


@torch.inference_mode()
def factors_of_slots(model, ids, lengths):
    model.encoder.set_attn_implementation(BY_BORDERS)
    return score(model, fill(ids, lengths, size_for(len(ids), len(lengths)))).narrow(0, len(ids))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["efficient_global_pointer", "global_pointer"])
@pytest.mark.parametrize(
    "lengths",
    [[1], [128], [129], [512, 1, 300], [16] * MOST_DOCUMENTS],
    ids=lambda lengths: f"{len(lengths)}of{sum(lengths)}",
)
def test_a_pack_that_is_filled_up_has_the_factors_of_the_pack(family, head, lengths):
    model = tiny_model(family, head=head).eval()
    ids = torch.randint(5, 120, (sum(lengths),))
    with torch.inference_mode():
        expected = model(ids, lengths).factors

    found = factors_of_slots(model, ids, lengths)

    for name, tensor in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), tensor, atol=1e-5, rtol=1e-4)


def test_a_pack_gets_the_smallest_size_that_holds_it():
    assert [size_for(tokens, 1) for tokens in (1, 128, 129, SIZES[-1])] == [128, 128, 256, SIZES[-1]]


@pytest.mark.parametrize(("tokens", "documents"), [(SIZES[-1] + 1, 1), (100, MOST_DOCUMENTS + 1)])
def test_a_pack_with_too_much_of_anything_has_no_size(tokens, documents):
    assert size_for(tokens, documents) is None
