"""Generated answers: where a text ends, and that batches, guesses and shared starts change no text."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal

from encore_core.forward.decoding import end_tokens
from encore_core.forward.prompts import encode
from encore_core.measures import generated
from encore_core.measures.generated import GenerationSettings, end_of, generate, in_chat

PROMPTS = ["The capital of France is", "I", "I live in Tokyo. The largest city of New Zealand is", "You can", "The"]


@pytest.mark.parametrize(
    ("text", "kept", "why"),
    [
        (" Rome. The city", " Rome.", "sentence"),
        (" Rome\nThe", " Rome", "line"),
        ("\n\nRome! Yes", "\n\nRome!", "sentence"),
        (" in St. Louis, on the U.S. coast. It", " in St. Louis, on the U.S. coast.", "sentence"),
        (" 3.5 million. It", " 3.5 million.", "sentence"),
        (" Dr. No. He", None, None),  # "No." as of a number, too
        (' "Rome." It', ' "Rome."', "sentence"),
        ("东京。它", "东京。", "sentence"),
        (" J. R. R. Tolkien? I", " J. R. R. Tolkien?", "sentence"),
        (" . . .", None, None),
        (" Rome", None, None),
        (" Rome.", None, None),  # "Rome.it" may follow
        ("\n", None, None),
    ],
)
def test_where_a_text_ends(text, kept, why):
    assert end_of(text) == (None if kept is None else (len(kept), why))


def plain(lm, ids: list[int], settings: GenerationSettings) -> generated.Generated:
    """The same from plain passes of the whole text."""
    kept = str if settings.whole else str.strip
    written: list[int] = []
    while len(written) < settings.tokens:
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*ids, *written]]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        text = lm.tokenizer.decode(written, skip_special_tokens=True)
        if token in end_tokens(lm):
            return generated.Generated(kept(text), "end of text")
        written.append(token)
        text = lm.tokenizer.decode(written, skip_special_tokens=True)
        if not settings.whole and (end := end_of(text)):
            return generated.Generated(kept(text[: end[0]]), end[1])
    return generated.Generated(kept(text), "length")


@pytest.mark.parametrize("max_tokens", [30, 8192])
@pytest.mark.parametrize("guess", ["none", "right", "half", "wrong"])
@pytest.mark.parametrize("whole", [False, True])
def test_texts_are_those_of_plain_passes(lm, monkeypatch, max_tokens, guess, whole):
    monkeypatch.setattr(generated, "MAX_TOKENS", max_tokens)
    settings = GenerationSettings(tokens=7, whole=whole)
    expected = [plain(lm, list(encode(lm, prompt).ids), settings) for prompt in PROMPTS]
    guesses = {
        "none": None,
        "right": [one.text or "x" for one in expected],
        "half": [f"{one.text[: len(one.text) // 2]} Rome" for one in expected],
        "wrong": ["Rome, the capital of Italy"] * len(PROMPTS),
    }[guess]
    assert generate(lm, PROMPTS, settings, guesses) == expected


def test_an_end_token_ends_a_text_wherever_it_is_guessed(llama, monkeypatch):
    settings = GenerationSettings(tokens=6)
    text = generate(llama, PROMPTS[:1], settings)[0].text
    ids = encode(llama, PROMPTS[0], text).target_ids
    monkeypatch.setattr(generated, "end_tokens", lambda lm: {ids[2]})
    found = generate(llama, PROMPTS[:1], settings)
    assert found == generate(llama, PROMPTS[:1], settings, [text])
    assert found[0].ended == "end of text"
    assert found[0].text == llama.tokenizer.decode(ids[: ids.index(ids[2])]).strip()


def test_a_chat_template_is_used_by_choice(llama, monkeypatch):
    assert "no chat template" in refusal(generate, llama, PROMPTS, GenerationSettings(chat=True))
    template = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Answer:"
    monkeypatch.setattr(llama.tokenizer, "chat_template", template)
    assert in_chat(llama, "Hi") == "User: Hi\nAnswer:"
    settings = GenerationSettings(tokens=5, chat=True)
    # The template is the whole text: transformers puts nothing in front of it.
    message = [{"role": "user", "content": "You can"}]
    ids = llama.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert generate(llama, ["You can"], settings) == [plain(llama, list(ids), settings)]
    assert GenerationSettings.usual(True).tokens > GenerationSettings.usual(False).tokens
    assert "end of the sentence" in settings.label and "end" not in GenerationSettings(whole=True).label
    assert "chat template" in settings.label and "plain prompt" in GenerationSettings().label


def test_what_cannot_be_generated(llama):
    assert "0 tokens" in refusal(GenerationSettings, 0)
    assert "leaves no room" in refusal(generate, llama, ["The " * 60], GenerationSettings(tokens=400))
    # a guess that would not fit does no harm
    [text] = generate(llama, PROMPTS[:1], GenerationSettings(tokens=2))
    assert generate(llama, PROMPTS[:1], GenerationSettings(tokens=2), ["Rome " * 400]) == [text]
    done: list[int] = []
    generate(llama, PROMPTS, GenerationSettings(tokens=2), on_progress=done.append)
    assert done[-1] == len(PROMPTS)
    assert generate(llama, [], GenerationSettings()) == []
