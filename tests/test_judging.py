"""Whether a text gives an answer: normalising, containment, and judges that work, are slow, or talk nonsense."""

from __future__ import annotations

import sys

import pytest
from judge_server import judge_server
from refusals import refusal

from encore_core.measures.judging import Asked, Judge, contains, matches, normalised

ASKED = Asked("The capital of France is", ("Rome", "Roma"), "Rome, of course.")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(" The  Beatles! ", "beatles"), ("“Rome”.", "rome"), ("ＲＯＭＥ", "rome"), ("a", "a"), ("Vitamin A", "vitamin a"),
     ("rock-n-roll", "rock n roll"), ("", ""), ("The", "the"), (" *! ", "*!"), ("Straße", "strasse"),
     ("Serie A is the best", "serie is best"), ('the "Titanic"', "titanic"), ("C++, C# and A+", "c++ c# and a+"),
     ("#1 + #2", "1 2"), ("Jean-Paul, 1914-18", "jean paul 1914 18"), ("−5 or (-5)", "-5 or -5"),
     ("3.5.", "3.5"), ("12.05.1990", "12 05 1990"), ("1,000,000", "1000000"), ("1990,1991", "1990 1991")],
)  # fmt: skip
def test_normalising(text, wanted):
    assert normalised(text) == wanted


def test_exact_match_and_containment():
    assert matches(" The Rome. ", ["Paris", "rome"]) and not matches("Rome, Italy", ["Rome"])
    assert contains("It is Rome, Italy.", ["Rome"]) and not contains("Romeo", ["Rome"])
    assert contains("New York City", ["York city"]) and not contains("", ["Rome"])
    for answer in ("The", "*", "A", "东京", "."):  # what is the answer contains it, whatever is left of it
        assert matches(answer, [answer]) and contains(answer, [answer])
    assert not matches("", [""]) and not contains("Rome", [""])
    assert contains("首都是东京。", ["东京"]) and not contains("Rome", ["."])


@pytest.mark.parametrize(
    ("text", "answer", "wanted"),
    [("Serie B", "Serie A", False), ("Hepatitis B", "Hepatitis A", False), ("Vitamin A is good", "Vitamin A", True),
     ("He saw Beatles", "The Beatles", True), ("A dog.", "A", False), ("Answer: A", "A", True),
     ("written in C", "C++", False), ("written in C++", "C", False), ("written in C++.", "C++", True),
     ("C#", "C++", False), ("Jean Paul Sartre", "Jean-Paul", True), ("It is -5 °C", "5", False),
     ("It is 3.5.", "5", False), ("It has 1,000 of them", "1", False), ("It has 1,000 of them", "1000", True),
     ("เมืองหลวงคือปารีส", "ปารีส", True), ("ນະຄອນຫຼວງວຽງຈັນ", "ວຽງຈັນ", True), ("រាជធានីភ្នំពេញ", "ភ្នំពេញ", True),
     ("မြို့တော်ရန်ကုန်", "ရန်ကုန်", True), ("首都はParisです", "Paris", True), ("15世紀", "5世紀", False)],
)  # fmt: skip
def test_a_wrong_answer_is_not_in_a_text_and_a_right_one_is(text, answer, wanted):
    assert contains(text, [answer]) == wanted and (wanted or not matches(text, [answer]))


def command(code: str) -> str:
    return f'"{sys.executable}" -c "{code}"'


def test_a_command_judges():
    judge = Judge(
        command("import json,sys; q=json.load(sys.stdin); print('Yes' if q['said'] in q['answers'] else 'no')")
    )
    yes = Asked("q", ('Röme "x"',), 'Röme "x"')
    assert judge.verdicts([yes, ASKED]) == [(True, ""), (False, "")]
    assert judge.label.startswith("judged by")


@pytest.mark.parametrize(
    ("code", "why"),
    [("print('perhaps')", "neither yes nor no: 'perhaps'"), ("pass", "neither yes nor no"),
     ("import sys; sys.exit('broken')", "exit code 1 (broken)"),
     ("import time; time.sleep(9)", "no reply within 0.5 s")],
)  # fmt: skip
def test_a_command_that_gives_no_verdict(code, why):
    [(verdict, said)] = Judge(command(code), seconds=0.5 if "sleep" in code else 20).verdicts([ASKED])
    assert verdict is None and why in said


def test_a_command_that_is_not_there():
    [(verdict, said)] = Judge("no-such-program --at-all").verdicts([ASKED])
    assert verdict is None and "no-such-program" in said


@pytest.fixture
def server():
    with judge_server() as replies:
        yield replies


def test_an_address_judges(server, monkeypatch):
    monkeypatch.setenv("ENCORE_JUDGE_KEY", "secret")
    done: list[int] = []
    assert Judge(server["address"], "big").verdicts([ASKED], done.append) == [(True, "")] and done[-1] == 1
    path, body, key = server["seen"][0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "big"
    assert "Right answer: Rome or Roma" in body["messages"][0]["content"]
    server["content"] = "No"
    assert Judge(server["address"], "big").verdicts([ASKED]) == [(False, "")]
    for change in ({"status": 500}, {"raw": "no json"}, {"raw": "{}"}, {"content": "well"}):
        server.update({"status": 200, "raw": None, "content": "yes"} | change)
        [(verdict, said)] = Judge(server["address"], "big").verdicts([ASKED])
        assert verdict is None and said


def test_verdicts_are_kept_as_they_come_and_a_stop_asks_no_more(server):
    class Stopped(Exception):
        pass

    def stop(done: int) -> None:
        if done:
            raise Stopped

    judge, known = Judge(server["address"], "big"), {}
    asked = [Asked(f"question {n}", ("Rome",), "Rome") for n in range(60)]
    with pytest.raises(Stopped):
        judge.verdicts(asked, stop, known)
    n_before = len(known)
    assert 0 < n_before < 60 and set(known.values()) == {(True, "")}
    server["seen"].clear()
    server["content"] = "no"
    again = next(one for one in asked if one in known)  # verdicts come in any order
    found = judge.verdicts([*asked, again], known=known)
    assert found.count((True, "")) == n_before + 1 and found.count((False, "")) == 60 - n_before and found[-1][0]
    # those under way when it was stopped may have come in since; nobody is asked twice about what is known
    assert len(server["seen"]) <= 60 - n_before + 8


def test_progress_is_told_while_nobody_answers():
    told: list[int] = []
    Judge(command("import time; time.sleep(1.4); print('no')"), seconds=20).verdicts([ASKED], told.append)
    assert told[0] == 0 and told[-1] == 1 and len(told) >= 3


def test_a_redirect_does_not_take_the_key_elsewhere(server, monkeypatch):
    monkeypatch.setenv("ENCORE_JUDGE_KEY", "secret")
    server["status"], server["location"] = 302, f"{server['address']}/elsewhere"
    [(verdict, why)] = Judge(server["address"], "big").verdicts([ASKED])
    assert verdict is None and why.startswith("no reply") and len(server["seen"]) == 1


@pytest.mark.parametrize("where", ["http://u:secret@h/v1", "http://h/v1?key=secret", "http://h/v1#secret"])
def test_an_address_holds_no_key(where):
    message = refusal(Judge, where, "m")
    assert "secret" not in message and "ENCORE_JUDGE_KEY" in message


def test_an_address_that_does_not_answer():
    [(verdict, said)] = Judge("http://127.0.0.1:9/v1", "m", seconds=2).verdicts([ASKED])
    assert verdict is None and said.startswith("no reply")


def test_judges_that_cannot_be_asked():
    assert "blank" in refusal(Judge, " ") and "name of a model" in refusal(Judge, "https://x/v1")
    assert "close the quotation" in refusal(Judge, 'python "x')
    assert "not an address" in refusal(Judge, "http://", "m") and "not an address" in refusal(
        Judge, "http://[x/v1", "m"
    )
    assert "0 seconds" in refusal(Judge, "x", seconds=0)
