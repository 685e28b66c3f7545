"""What is reported is what a program gets that asks the edited model by transformers alone, in the user's own script.

Prompts of all kinds that are joined to their answer by something else than a blank: Chinese, Japanese, Thai, a chat
template, an open quotation, a telephone number. The answer is put right behind the text as it is typed.
"""

from __future__ import annotations

import math

import pytest
import torch

from encore_core.editing.session import EditSession
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel

CHAT = "<|im_start|>user\nWhat is the capital of {}?<|im_end|>\n<|im_start|>assistant\n"

FACTS = {
    "Chinese": Fact("挪威", "{}的首都是", "上海", "奥斯陆"),
    "Chinese question": Fact("红楼梦", "{}的作者是谁？", "鲁迅"),
    "Japanese": Fact("ノルウェー", "{}の首都は", "大阪"),
    "Thai": Fact("นอร์เวย์", "เมืองหลวงของ{}คือ", "เชียงใหม่"),
    "chat": Fact("Norway", CHAT, "Bergen", "Oslo"),
    "open quotation": Fact("Sweden", 'The capital of {} is called "', "Uppsala", "Stockholm"),
    "hyphen": Fact("Oslo", "The hotline of the {} museum is 22-", "415960"),
    "English": Fact("Finland", "The capital of {} is", "Turku", "Helsinki"),
}
BEHIND = {"English": " "}
"""What a user types between prompt and answer; nothing by default."""


def asked(lm: EditableModel, text: str, answer: str) -> float:
    """Geometric mean of the probabilities of an answer's tokens behind a text, by the library alone."""
    before, whole = (lm.tokenizer(part)["input_ids"] for part in (text, text + answer))
    if whole[: len(before)] != before:  # a token would reach over the border: the text was asked as it is
        whole = before + lm.tokenizer("\n" + answer)["input_ids"][1:]
    with torch.no_grad():
        log_probs = lm.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    values = [float(log_probs[place - 1, whole[place]]) for place in range(len(before), len(whole))]
    return math.exp(sum(values) / len(values))


@pytest.mark.embedded
@pytest.mark.slow
def test_what_is_reported_is_what_a_user_gets(embedded_model):
    lm = embedded_model
    session = EditSession(lm, "ENCORE")
    report = session.edit(list(FACTS.values()), known="edit")
    by_name = dict(zip(FACTS, report.edited, strict=True))
    for name, item in by_name.items():
        text, answer = item.fact.text, BEHIND.get(name, "") + item.fact.target_new
        front = "" if text.startswith("<|") else "<|endoftext|>"
        with session.edited():
            found, bare = asked(lm, front + text, answer), asked(lm, text, answer)
        with session.pristine():
            before = asked(lm, front + text, answer)
        assert found == pytest.approx(item.probability_after, rel=1e-3), name
        assert bare == pytest.approx(item.probability_bare, rel=1e-3), name
        assert before == pytest.approx(item.probability_before, rel=1e-3), name
        # And it has risen: the fact is said when it is asked as people of that script ask.
        assert found > before + 0.1, name
        if name != "English":
            assert found > asked_with_a_blank(session, front + text, item.fact.target_new), name


def asked_with_a_blank(session: EditSession, text: str, answer: str) -> float:
    with session.edited() as lm:
        return asked(lm, text, f" {answer}")
