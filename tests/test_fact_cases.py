"""Files as people have them, kept outside of the project: each is read, or refused with the way on. Their kinds are
tested with inputs of the project's own in `test_fact_forms` and `test_fact_files`."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refusal

from encore_core.facts import Fact, Portability, check_batches, read_facts

CASES = Path(__file__).parents[2] / "shared" / "cases"
NORWAY = ("Norway", "The capital of {} is", "Bergen")

READ = {
    "00_plain.json": [Fact(*NORWAY, "Oslo")],
    "01_memit_request.json": [
        Fact("Magnus Carlsen", "{} plays the sport of", "tennis"),
        Fact("Blender", "{} was developed by", "Adobe", "the Blender Foundation"),
    ],
    "02_flat_counterfact_names.json": [
        Fact(*NORWAY, "Oslo", ["Norway's capital city is called"], ["The capital of Sweden is"])
    ],
    "03_easyedit_results.json": [
        Fact(
            *NORWAY, None, ["Norway's capital city is called"], [("The currency of Norway is", "krone")], id="0",
            portability=[Portability("The parliament of Norway meets in", ("Bergen",), "one_hop")],
        )
    ],
    "04_locality_without_answer.json": [
        Fact(
            "Chad", "{} is located in", "Asia", "Africa", ["The continent on which Chad lies is"],
            [("Kenya is a part of the continent of", "Africa")], id="1",
        )
    ],
    "07_mquake.json": [
        Fact("Edvard Munch", "{} is a citizen of", "Chile", "Norway", relation="P27", id="1-1"),
        Fact(
            "Chile", "The capital of {} is", "Lima", "Santiago", relation="P36", id="1-2",
            portability=[Portability("What is the capital of the country of Edvard Munch?", ("Lima",), "multi-hop")],
        ),
    ],
    "09_knowedit_nested.json": [
        Fact(
            "Edvard Munch", "The place of death of {} is", "Ekely, Chile", "Oslo",
            neighbours=[("The sex of Edvard Munch is", "male"), ("The occupation of Edvard Munch is", "painter")],
            portability=[
                Portability("Is Edvard Munch still alive?", ("no", "incorrect"), "reasoning"),
                Portability(
                    "The place of death of the painter of The Scream is", ("Ekely, Chile", "Ekely"), "alias"
                ),
            ],
        )
    ],
    "10_chinese.json": [
        Fact("挪威", "{}的首都是", "上海", "奥斯陆", ["挪威的首都在"], [("瑞典的首都是", "斯德哥尔摩")])
    ],
    "11_chat_template.json": [
        Fact(
            "Norway", "<|im_start|>user\nWhat is the capital of {}?<|im_end|>\n<|im_start|>assistant\n", "Bergen",
            "Oslo",
        )
    ],
    "11b_open_quote.json": [Fact("Norway", 'The capital of {} is called "', "Bergen", "Oslo")],
    "12_subject_case.json": [
        Fact("природный газ", "Из какого газа состоит {}?", "водорода"),
        Fact("norway", "The capital of {} is", "Bergen"),
    ],
    "13c_nan.json": [Fact(*NORWAY)],
    "14b_sep_line.csv": [Fact(*NORWAY, "Oslo")],
    "14d_utf16.csv": [Fact(*NORWAY, "Oslo")],
    "14i_pandas_lists_our_names.csv": [
        Fact(
            *NORWAY, "Oslo", ["Norway has its capital in", "The seat of government of Norway is"],
            ["The capital of Sweden is"],
        )
    ],
    "15d_wrapped.json": [Fact(*NORWAY)],
    "16f_endoftext_truth.json": [Fact(*NORWAY)],
    "19c_rephrase_null.json": [Fact(*NORWAY, "Oslo", ["Norway's capital is"])],
    "20_bi_zsre.json": [
        Fact(
            "Glomma", "In which country is the {}?", "Sweden", "Norway", ["Which country is the Glomma in?"],
            [("nq question: who painted the night watch", "Rembrandt")], id="1",
            portability=[Portability("What is the capital of the country of the Glomma?", ("Stockholm",))],
        )
    ],
}  # fmt: skip
TOLD = {
    "03_easyedit_results.json": "'pre', 'post'",
    "04_locality_without_answer.json": "take the fact's true answer",
    "07_mquake.json": "requested_rewrite.question is not",
    "09_knowedit_nested.json": "several",
    "12_subject_case.json": "'Norway' is taken as 'norway'",
    "15d_wrapped.json": "'data'",
    "16f_endoftext_truth.json": "are left out",
    "20_bi_zsre.json": "'portability.Recalled Relation'",
}
REFUSED = {
    "05_ultraedit_zsre.json": "every method here looks a subject up",
    "12e_one_bad_in_many.json": "record 41",
    "14l_excel.xlsx": "Excel workbook, not text: save it as CSV UTF-8",
    "15j_lfs_pointer.json": "Git LFS pointer",
}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the files are not here")


def test_every_file_is_among_these():
    files = {path.name for path in CASES.iterdir() if path.suffix in (".json", ".jsonl", ".csv", ".xlsx")}
    # two are not about reading: that of contradictions below, and one for what a model makes of its facts
    assert files - {"30b_contradiction_in_last_batch.json", "43_first_token.json"} <= set(READ) | set(REFUSED)


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name):
    notices: list[str] = []
    assert read_facts(CASES / name, notice=notices.append) == READ[name]
    assert any(TOLD[name] in line for line in notices) if name in TOLD else notices == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    assert REFUSED[name] in refusal(read_facts, CASES / name)


def test_one_bad_record_among_many_is_left_out():
    notices: list[str] = []
    assert len(read_facts(CASES / "12e_one_bad_in_many.json", on_error="skip", notice=notices.append)) == 40
    assert len(notices) == 1 and "record 41 skipped" in notices[0]


def test_a_contradiction_is_found_before_anything_is_edited():
    facts = read_facts(CASES / "30b_contradiction_in_last_batch.json")
    assert "facts 61 and 62 contradict" in refusal(check_batches, facts, 10)
