"""Continuations on top of kept keys and values, held to plain passes over the whole sequence."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CORPUS, byte_level_tokenizer, hooks_and_patches, metaspace_tokenizer

from encore_core.forward.decoding import GrowingPrefix, end_tokens
from encore_core.forward.prompts import pad
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import record_prefix
from encore_core.models.editable import EditableModel

OWN = (5, 1, 3)


@torch.no_grad()
def plain(lm, row) -> torch.Tensor:
    """Logits (n_tokens, n_vocab) of one sequence, by the library alone."""
    return lm.model(input_ids=torch.tensor([row]), use_cache=False).logits[0]


@pytest.fixture
def ids(lm) -> list[int]:
    return list(lm.tokenizer(" ".join(CORPUS[:4]))["input_ids"])


@pytest.mark.parametrize("n_shared", [0, 1, 6])
def test_rows_grow_behind_what_they_share(lm, ids, n_shared):
    """Prompts of unequal length, then a token at a time; what rows share is one row."""
    shared = ids[:n_shared]
    rows = [ids[n_shared + 2 * number : n_shared + 2 * number + length] for number, length in enumerate(OWN)]
    tails = [ids[20 + number : 24 + number] for number in range(len(rows))]
    batch = pad(lm, rows)
    ends = (torch.arange(len(rows)), batch.mask.sum(-1) - 1)
    with torch.no_grad():
        before = record_prefix(lm, torch.tensor([shared]), torch.ones(1, n_shared).long())[0] if shared else None
        cache = GrowingPrefix(lm, len(rows), batch.ids.shape[1] + 4, before)
        found = [cache.run(lm, batch.ids, batch.mask, logits_at=ends)]
        for step in range(4):
            token = torch.tensor([[tail[step]] for tail in tails])
            found.append(cache.run(lm, token, torch.ones_like(token))[:, 0])
    for number, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        expected = plain(lm, [*shared, *row, *tail])[n_shared + len(row) - 1 :]
        torch.testing.assert_close(torch.stack([logits[number] for logits in found]), expected, rtol=2e-5, atol=2e-5)
    if before is not None:
        assert all(layer.keys.shape[0] == 1 and layer.keys.shape[2] == n_shared for layer in before.layers)


def test_tokens_that_are_taken_back_leave_no_trace(lm, ids):
    """Also when fewer follow than were taken back."""
    rows = [ids[:6], ids[3:5]]
    batch = pad(lm, rows)
    with torch.no_grad():
        cache = GrowingPrefix(lm, 2, batch.ids.shape[1] + 3)
        cache.run(lm, batch.ids, batch.mask)
        wrong = torch.tensor([ids[7:10], ids[8:11]])
        cache.run(lm, wrong, torch.ones_like(wrong))
        cache.forget(3)
        right = torch.tensor([ids[11:13], ids[12:14]])
        found = cache.run(lm, right, torch.ones_like(right))
    for number, row in enumerate(rows):
        expected = plain(lm, [*row, *right[number].tolist()])[-2:]
        torch.testing.assert_close(found[number], expected, rtol=2e-5, atol=2e-5)


def test_nothing_is_left_on_the_model(lm, ids):
    tidy = hooks_and_patches(lm)
    with torch.no_grad():
        cache = GrowingPrefix(lm, 1, 3)
        cache.run(lm, torch.tensor([ids[:3]]), torch.ones(1, 3).long())
        with pytest.raises(RuntimeError):  # no room left
            cache.run(lm, torch.tensor([ids[3:4]]), torch.ones(1, 1).long())
    assert hooks_and_patches(lm) == tidy


@pytest.mark.parametrize(
    ("tokenizer", "n_added"),
    [
        (byte_level_tokenizer(), 0),
        (byte_level_tokenizer(bos=True), 1),
        (byte_level_tokenizer(bos=True, eos_at_end=True), 1),
        (metaspace_tokenizer(), 1),
        (metaspace_tokenizer(bos=False), 0),
    ],
)
def test_texts_keep_what_is_put_in_front_and_lose_what_is_put_behind(tokenizer, n_added):
    class Model:
        """All that is asked of a model here."""

        start_token = None
        special_ids = EditableModel.special_ids

    lm = Model()
    lm.tokenizer = tokenizer
    texts = ["The capital of France is Paris.", "I", "one\n\ntwo {} 🦄"]
    for text, tokens in zip(texts, tokens_of(lm, texts), strict=True):
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(tokens.ids[n_added:]) == bare
        assert list(tokens.ids[:n_added]) == [tokenizer.bos_token_id] * n_added
        assert tokens.n_added == n_added
    assert tokens_of(lm, []) == []


def test_the_model_folder_may_name_more_tokens_that_end_a_text(gpt2, monkeypatch):
    own = gpt2.tokenizer.eos_token_id
    for named, expected in (([7, own], {7, own}), (9, {9, own}), (None, {own})):
        monkeypatch.setattr(gpt2.model.generation_config, "eos_token_id", named)
        assert end_tokens(gpt2) == expected
