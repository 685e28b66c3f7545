"""X"""

# ---------------------------------------------------------------------------------------------- the readers

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


