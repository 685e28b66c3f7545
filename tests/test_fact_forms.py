"""Records of every data set as facts: by whatever names, nested or flat, and nothing left without a word."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from refusals import refusal

from encore_core.facts import Fact, Neighbour, Portability, parse_facts

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The native language of Montesquieu is"],
    "generation_prompts": ["Danielle Darrieux's mother tongue is"],
}
EASYEDIT = {
    "case_id": 2,
    "prompt": "Toko Yasuda, the",
    "target_new": "piano",
    "subject": "Toko Yasuda",
    "ground_truth": "guitar",
    "rephrase_prompt": "Toko Yasuda is incredible at",
    "locality_prompt": "John Lennon performs on the",
    "locality_ground_truth": "guitar",
}
ZSRE = {
    "subject": "WEFS",
    "src": "When was WEFS established?",
    "pred": "1998",
    "rephrase": "When has WEFS been established?",
    "alt": "1997",
    "answers": ["1987"],
    "loc": "nq question: who voiced gaston",
    "loc_ans": "Richard White",
    "cond": "1998 >> 1997",
}


def test_counterfact():
    (fact,) = parse_facts(json.dumps([COUNTERFACT]))
    assert fact == Fact(
        "Danielle Darrieux",
        "The mother tongue of {} is",
        "English",
        "French",
        ("Shayna does this. Danielle Darrieux, a native",),
        (Neighbour("The native language of Montesquieu is", "French"),),
        relation="P103",
        id="7",
    )


@pytest.mark.parametrize("changes", [{}, {"ground_truth": ["guitar"], "target_new": ["piano"]}])
def test_easyedit(changes):
    (fact,) = parse_facts(json.dumps(EASYEDIT | changes))
    assert fact == Fact(
        "Toko Yasuda",
        "{}, the",
        "piano",
        "guitar",
        ("Toko Yasuda is incredible at",),
        (Neighbour("John Lennon performs on the", "guitar"),),
        id="2",
    )


def test_easyedit_with_lists_and_nested_locality():
    record = {
        "prompt": "Toko Yasuda, the",
        "subject": "Toko Yasuda",
        "target_new": "piano",
        "rephrase": ["one Toko Yasuda", "two Toko Yasuda"],
        "locality_prompt": ["a", "b"],
        "locality_ground_truth": ["A", ["B", "also B"]],
        "locality": {
            "neighborhood": {"prompt": "c", "ground_truth": "C"},
            "distracting": {"prompt": ["d", "e"], "ground_truth": ["D", "E"]},
            "specific": [{"prompt": "f", "ground_truth": [["F"]]}],
        },
    }
    (fact,) = parse_facts(json.dumps([record]))
    assert fact.paraphrases == ("one Toko Yasuda", "two Toko Yasuda")
    assert "".join(n.prompt for n in fact.neighbours) == "abcdef"
    assert "".join(n.target for n in fact.neighbours) == "ABCDEF"
    assert fact.target_true is None


def test_easyedit_locality_of_unequal_length():
    record = EASYEDIT | {"locality_prompt": ["a", "b"], "locality_ground_truth": ["A"]}
    message = refusal(parse_facts, json.dumps([record]))
    assert "record 1" in message and "2 prompts and 1 answers" in message


def test_zsre_takes_the_gold_answer_unless_it_is_the_new_one():
    gold, other = parse_facts(json.dumps([ZSRE, ZSRE | {"answers": ["1997"]}]))
    assert (gold.prompt, gold.target_new, gold.target_true) == ("When was {} established?", "1997", "1987")
    assert gold.neighbours == (Neighbour("nq question: who voiced gaston", "Richard White"),)
    assert other.target_true == "1998"


def test_a_form_can_be_forced():
    both = EASYEDIT | {"src": "unused"}
    assert parse_facts(json.dumps(both), format="easyedit")[0].target_true == "guitar"
    assert "format 'xml'" in refusal(parse_facts, "x", format="xml")
    assert "limit 0" in refusal(parse_facts, "x", limit=0)
    assert "on_error 'ignore'" in refusal(parse_facts, "x", on_error="ignore")


# ------------------------------------------------------------------------------------------- one table of names

NORWAY = {"subject": "Norway", "prompt": "The capital of {} is", "target_new": "Bergen", "target_true": "Oslo"}


def read(record: Any, **options) -> tuple[list[Fact], list[str]]:
    """The facts of one record or a list of them, and what was told of it without the file's name."""
    notices: list[str] = []
    text = json.dumps(record if isinstance(record, list) else [record])
    facts = parse_facts(text, notice=lambda line: notices.append(line.removeprefix("pasted: ")), **options)
    return facts, notices


def renamed(**names: str) -> dict[str, Any]:
    """The record of Norway with other names."""
    return {names.get(key, key): value for key, value in NORWAY.items()}


@pytest.mark.parametrize(
    "names",
    [
        {"prompt": "src"},
        {"prompt": "question", "target_new": "ans"},
        {"prompt": "Prompt", "subject": "SUBJECT", "target_new": "Target New", "target_true": "ground-truth"},
        {"target_new": "alt", "target_true": "answers"},
        {"target_new": "target", "target_true": "ground_truth"},
        {"target_new": "object", "target_true": "answer", "prompt": "question"},
        {"target_true": "pred"},
    ],
)
def test_one_thing_has_many_names(names):
    assert read(renamed(**names)) == ([Fact(**NORWAY)], [])


@pytest.mark.parametrize(
    "name",
    ["paraphrases", "paraphrase", "paraphrase_prompts", "rephrase", "rephrase_prompt", "rephrase_prompts"],
)
@pytest.mark.parametrize("value", ["Norway's capital is", ["Norway's capital is"], [["Norway's capital is", None]]])
def test_paraphrases_have_many_names(name, value):
    assert read(NORWAY | {name: value}) == ([Fact(**NORWAY, paraphrases=["Norway's capital is"])], [])


@pytest.mark.parametrize("name", ["neighbours", "neighbors", "neighborhood_prompts", "Neighbourhood Prompts"])
def test_neighbours_have_many_names(name):
    wanted = Fact(**NORWAY, neighbours=["The capital of Sweden is"])
    assert read(NORWAY | {name: ["The capital of Sweden is"]}) == ([wanted], [])


LOCALITY = [
    {"locality_prompt": "a", "locality_ground_truth": "A"},
    {"locality_prompts": ["a"], "locality_ground_truth": ["A"]},
    {"loc": "a", "loc_ans": "A"},
    {"loc": ["a"], "loc_ans": [["A"]]},
    {"locality": {"kind": {"prompt": "a", "ground_truth": "A"}}},
    {"locality": {"kind": {"prompt": ["a"], "ground_truth": ["A"]}}},
    {"locality": {"kind": [{"prompt": "a", "ground_truth": [["A"]]}]}},
    {"locality": {"kind": [["a", "A"]]}},
    {"locality": {"outer": {"inner": {"prompt": "a", "ground_truth": "A"}}}},
    {"locality": [{"loc": "a", "loc_ans": "A"}]},
    {"locality": {"prompt": "a", "ground_truth": "A"}},
    {"locality": "a", "locality_ans": "A"},
    {"neighbours": [{"prompt": "a", "target": "A"}]},
    {"neighbors": [["a", "A"]]},
    {"requested_rewrite": NORWAY, "locality": {"kind": {"prompt": "a", "ground_truth": "A"}}},
    {"requested_rewrite": NORWAY | {"locality_prompt": "a", "locality_ground_truth": "A"}},
    {"locality_prompt": "a", "locality_ground_truth": "A", "loc": "a", "loc_ans": "A"},  # told once
]


@pytest.mark.parametrize("extra", LOCALITY, ids=range(len(LOCALITY)))
def test_locality_comes_in_many_shapes(extra):
    record = extra if "requested_rewrite" in extra else NORWAY | extra
    assert read(record) == ([Fact(**NORWAY, neighbours=[("a", "A")])], [])


PORTABILITY = [
    ({"portability": [{"prompt": "a", "answers": ["A", "B"], "kind": "k"}]}, "k"),
    ({"portability": {"k": {"prompt": "a", "ground_truth": ["A", "B"]}}}, "k"),
    ({"portability": {"k": {"prompt": ["a"], "ground_truth": [["A", "B"]]}}}, "k"),
    ({"portability": {"k": {"prompt": ["a"], "ground_truth": ["A", "B"]}}}, "k"),
    ({"portability": {"k": [{"prompt": "a", "ground_truth": [["A", "B"]]}]}}, "k"),
    ({"portability": {"k": [{"prompt": "a", "ground_truth": [["A"], ["B"]]}]}}, "k"),
    ({"portability_prompt": "a", "portability_ground_truth": ["A", "B"]}, None),
    ({"portability": {"New Question": "a", "New Answer": ["A", "B"]}}, None),
    ({"mhop": "a", "mhop_ans": ["A", "B"]}, "multi-hop"),
    ({"question_2hop": "a", "answer_2hop": ["A", "B"]}, "two-hop"),
]


@pytest.mark.parametrize(("extra", "kind"), PORTABILITY, ids=range(len(PORTABILITY)))
def test_portability_comes_in_many_shapes(extra, kind):
    assert read(NORWAY | extra) == ([Fact(**NORWAY, portability=[Portability("a", ("A", "B"), kind)])], [])


def test_memit_requests_and_answers_with_ids():
    record = {
        "prompt": "The capital of {} is", "subject": "Norway", "target_new": {"str": "Bergen", "id": "Q26793"},
        "target_true": {"str": "Oslo"},
    }  # fmt: skip
    assert read(record) == ([Fact(**NORWAY)], ["keys of no use to an edit, ignored: 'target_new.id'"])


def test_mquake_has_several_edits_and_questions_that_follow_from_all():
    edits = [
        {"prompt": "{} is a citizen of", "subject": "Edvard Munch", "target_new": {"str": "Chile"}, "question": "Q1"},
        {"prompt": "The capital of {} is", "subject": "Chile", "target_new": {"str": "Lima"}, "relation_id": "P36"},
    ]
    record = {
        "case_id": 4, "requested_rewrite": edits, "questions": ["Where?", "In which city?"], "answer": "Oslo",
        "new_answer": "Lima", "new_answer_alias": ["Ciudad de los Reyes"], "orig": {"triples": [[1]]},
    }  # fmt: skip
    (munch, chile), notices = read(record)
    assert (munch.text, munch.target_new, munch.id, munch.portability) == (
        "Edvard Munch is a citizen of", "Chile", "4-1", (),
    )  # fmt: skip
    assert (chile.subject, chile.relation, chile.id, chile.place) == ("Chile", "P36", "4-2", "record 1, rewrite 2")
    answers = ("Lima", "Ciudad de los Reyes")
    assert chile.portability == tuple(Portability(q, answers, "multi-hop") for q in record["questions"])
    assert "requested_rewrite.prompt is used and requested_rewrite.question is not" in notices[0]
    assert notices[1] == "keys of no use to an edit, ignored: 'answer', 'orig'"

    (one,), _ = read(record | {"requested_rewrite": edits[1:], "paraphrase_prompts": ["Chile's capital is"]})
    assert one.id == "4" and one.paraphrases == ("Chile's capital is",) and len(one.portability) == 2
    # nobody can say which of two edits a paraphrase is of
    facts, notices = read(record | {"paraphrase_prompts": ["Chile's capital is"]})
    assert not any(fact.paraphrases for fact in facts) and "keys ignored: 'paraphrase_prompts'" in notices
    # one bad edit of a record does not take the other with it
    bad = record | {"requested_rewrite": [edits[0] | {"subject": "Nobody", "prompt": "Somebody is"}, edits[1]]}
    facts, notices = read(bad, on_error="skip")
    assert [fact.subject for fact in facts] == ["Chile"] and "record 1, rewrite 1 skipped" in notices[0]
    assert facts[0].portability == () and any("multi-hop questions are left out" in line for line in notices)
    assert len(read([record, record], limit=3)[0]) == 3


def test_result_files_of_easyedit():
    inside = {
        "prompt": "The capital of Norway is", "subject": "Norway", "target_new": "Bergen",
        "ground_truth": "<|endoftext|>", "rephrase_prompt": "Norway's capital is", "colour": "red",
        "locality": {"r": {"prompt": ["a"], "ground_truth": ["A"]}, "note": "text"},
        "portability": {"hop": {"prompt": ["p"], "ground_truth": ["P"], "extra": 1}, "other": ["q"]},
    }  # fmt: skip
    record = {"pre": {"rewrite_acc": [0.3]}, "case_id": 0, "requested_rewrite": inside, "post": {}, "time": 3.5}
    facts, notices = read([record, record])
    assert facts == 2 * [
        Fact(
            "Norway", "The capital of {} is", "Bergen", None, ["Norway's capital is"], [("a", "A")], id="0",
            portability=[Portability("p", ("P",), "hop")],
        )
    ]  # fmt: skip
    assert notices == [
        "keys ignored: 'requested_rewrite.locality.note', 'requested_rewrite.portability.other', "
        "'requested_rewrite.colour', 'requested_rewrite.portability.hop.extra'",
        "keys of no use to an edit, ignored: 'pre', 'time'",
    ]


# -------------------------------------------------------------------------------- several names, nothing, no answer


def test_the_filled_name_counts_lists_are_joined_and_of_single_values_it_is_told():
    (fact,), notices = read(
        NORWAY
        | {"rephrase_prompt": None, "rephrase": ["p"], "paraphrases": ["q", "p"], "ground_truth": "Trondheim"}
        | {"src": "", "question": "Which is the capital of Norway?", "alt": "Bergen "}
    )
    assert fact.paraphrases == ("q", "p") and (fact.target_true, fact.text) == ("Oslo", "The capital of Norway is")
    assert notices == [
        "prompt is used and question is not, where they differ (record 1)",
        "target_true is used and ground_truth is not, where they differ (record 1)",
    ]
    (fact,), notices = read(renamed(target_true="ground_truth") | {"target_true": math.nan})
    assert fact == Fact(**NORWAY) and notices == []
    (fact,), notices = read(NORWAY | {"target_new": ["Bergen", "Bergen city"], "ground_truth": ["Bergen", "Oslo"]})
    assert fact == Fact(**NORWAY) and notices == ["target_new holds several values: the first is used (record 1)"]


def test_a_forced_form_puts_its_names_first():
    both = NORWAY | {"src": "Where is the capital of {}?", "alt": "Hamar"}
    assert read(both)[0][0].target_new == "Bergen"
    (fact,), notices = read(both, format="zsre")
    assert (fact.prompt, fact.target_new) == ("Where is the capital of {}?", "Hamar")
    assert "src is used and prompt is not, where they differ (record 1)" in notices


NOTHING = [None, math.nan, "", " ", "nan", "NaN", "null", "N/A", "<|endoftext|>", " </s> ", [], {}, [None, "nan"]]


@pytest.mark.parametrize("nothing", NOTHING, ids=range(len(NOTHING)))
def test_what_stands_for_nothing_is_nothing(nothing):
    names = ["target_true", "ground_truth", "paraphrases", "rephrase_prompt", "neighbours", "locality_prompt", "loc"]
    names += ["locality_ground_truth", "locality", "portability", "relation", "id", "case_id", "note", "pre"]
    record = {key: value for key, value in NORWAY.items() if key != "target_true"}
    (fact,), notices = read(record | dict.fromkeys(names, nothing))
    assert fact == Fact(**record) and notices == []


def test_nothing_cannot_be_taught_and_none_can_be_an_answer():
    message = refusal(parse_facts, json.dumps(NORWAY | {"target_new": "<|endoftext|>"}))
    assert "record 1: target_new '<|endoftext|>' stands for nothing: give a text" in message
    assert "alt 'nan' stands for nothing" in refusal(
        parse_facts, json.dumps(renamed(target_new="alt") | {"alt": "nan"})
    )
    (fact,), _ = read(NORWAY | {"target_new": "None", "paraphrases": ["None", "Norway's capital is"]})
    assert fact.target_new == "None" and fact.paraphrases == ("Norway's capital is",)


def test_neighbours_without_an_answer_take_the_true_one_or_are_left_out_and_it_is_said():
    (fact,), notices = read(NORWAY | {"locality_prompt": ["a", "b"], "locality_ground_truth": ["A", None]})
    assert fact.neighbours == (Neighbour("a", "A"), Neighbour("b", "Oslo"))
    assert notices == [
        "locality_prompt: neighbours without an answer of their own take the fact's true answer (record 1)"
    ]
    bare = {key: value for key, value in NORWAY.items() if key != "target_true"}
    for extra in ({"locality_prompt": "a"}, {"neighborhood_prompts": ["a"]}, {"neighbours": ["a"]}):
        facts, notices = read([bare | extra] * 3)
        assert not any(fact.neighbours for fact in facts)
        (key,) = extra
        assert notices == [
            f"{key}: neighbours without an answer of their own are left out (3 rows, the first: record 1)"
        ]
    # about something else altogether, so the true answer is not theirs
    for extra in ({"loc": "a"}, {"locality": {"k": {"prompt": "a"}}}, {"locality_question": "a"}):
        (fact,), notices = read(NORWAY | extra)
        assert not fact.neighbours and "without an answer of their own are left out" in notices[0]
    (fact,), notices = read(NORWAY | {"portability": {"k": {"prompt": "a"}}, "locality_ground_truth": "A"})
    assert not fact.portability and "portability: questions without an answer are left out (record 1)" in notices
    assert "keys ignored: 'locality_ground_truth'" in notices


def test_a_record_without_a_subject_is_told_why_that_matters():
    record = {"src": "In which country does the Glomma flow?", "ans": "Sweden", "loc": "a", "loc_ans": "A"}
    message = refusal(parse_facts, json.dumps(record))
    assert "subject is missing" in message and "every method here looks a subject up" in message and "none" in message
    assert read(record | {"subject": "Glomma"})[0] == [
        Fact("Glomma", "In which country does the {} flow?", "Sweden", neighbours=[("a", "A")])
    ]


@pytest.mark.parametrize("join", ["", " "])
def test_join_is_read(join):
    (fact,), notices = read(NORWAY | {"join": join})
    assert fact.join == join and notices == []
    assert read(NORWAY | {"join": None})[0][0].join is None
    assert "join '  '" in refusal(parse_facts, json.dumps(NORWAY | {"join": "  "}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"locality": 3}, ["locality 3", "a number", "prompts and answers"]),
        ({"locality": [3]}, ["locality", "3 is a number"]),
        ({"neighbours": [{"answer": "a"}]}, ["neighbours", "is not a neighbour"]),
        ({"neighbours": [["a", "b", "c"]]}, ["neighbours", "pair"]),
        ({"neighbours": [["a", " "]]}, ["neighbours: target ' '", "blank"]),
        ({"paraphrases": [3]}, ["paraphrases 3", "a number"]),
        (
            {"portability": {"k": {"prompt": ["a", "b"], "ground_truth": ["A"]}}},
            ["portability", "2 prompts", "1 answers"],
        ),
        ({"target_new": {"text": "x"}}, ["target_new", "an object"]),
        ({"known": 1}, ["known 1", "true, false"]),
        ({"requested_rewrite": [NORWAY, 3]}, ["requested_rewrite 3", "a number"]),
    ],
    ids=lambda value: None,
)
def test_what_cannot_be_read_is_refused_in_the_files_words(changes, parts):
    message = refusal(parse_facts, json.dumps(NORWAY | changes))
    assert "record 1" in message and all(part in message for part in parts), message


def test_keys_are_left_with_a_word_once_a_file_and_a_guess():
    record = NORWAY | {"targt_true": "x", "cond": "y", "generation_prompts": ["z"], "Note": 1, "empty": None}
    facts, notices = read([record] * 3)
    assert facts == [Fact(**NORWAY)] * 3
    assert notices == [
        "keys ignored: 'targt_true', 'Note' (did you mean target_true?)",
        "keys of no use to an edit, ignored: 'cond', 'generation_prompts'",
    ]
    _, notices = read(NORWAY | {f"key {n}": 1 for n in range(50)})
    assert "'key 19' and 30 more" in notices[0]


def test_what_differs_by_blanks_alone_is_the_same():
    """Found by fuzzing: two neighbours that became one text only when the blanks were gone were kept, and fewer of
    them were read from the file that was written."""
    neighbours = [["The capital of Italy is", "Rome"], [" The capital of Italy is ", "\u2028Rome"], ["b", "B"]]
    [fact], _ = read(NORWAY | {"neighbor": neighbours, "paraphrases": ["x", "y"], "rephrase": [" y", "x ", "z"]})
    assert [(one.prompt, one.target) for one in fact.neighbours] == [("The capital of Italy is", "Rome"), ("b", "B")]
    assert fact.paraphrases == ("x", "y", "z")
    assert read(fact.to_dict())[0] == [fact]
