"""`encore facts`: convert, check, and data sets from a hub of the tests' own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from refusals import refusal

from encore_core import hub
from encore_core.cli import main
from encore_core.facts import hub_sets, read_facts
from encore_core.facts.checking import check_facts
from encore_core.facts.hub_sets import HUB_SETS, HubSet, fetch_set, fetched, find_set

GOOD = [fact.to_dict() for fact in tiny_models.FACTS[:3]]
BAD = {"subject": "Atlantis", "prompt": "The capital of Mu is", "target_new": "Rome"}
ULTRA = {"prompt": "What is the capital of Norway?", "rephrase_prompt": "Norway's capital?", "ans": "Rome"}


@pytest.fixture
def file(tmp_path):
    """`file(records)`: the path of a JSON file of records."""

    def made(records: list[dict], name: str = "in.json") -> str:
        (tmp_path / name).write_text(json.dumps(records), encoding="utf-8")
        return str(tmp_path / name)

    return made


def said(capsys) -> tuple[str, str]:
    found = capsys.readouterr()
    return found.out, found.err


# -- convert -----------------------------------------------------------------------------------------------------------


def test_convert(file, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    path = file([*GOOD, BAD])
    assert main(["facts", "convert", path, "--to", "jsonl", f"--out={out}"]) == 2
    assert "record 4: prompt 'The capital of Mu is'" in (err := said(capsys)[1]) and "--skip-bad goes on" in err
    assert not out.exists()
    assert main(["facts", "convert", path, f"--out={out}", "--skip-bad"]) == 0
    assert f"3 facts written to {out}" in said(capsys)[1]
    assert read_facts(out) == list(tiny_models.FACTS[:3])
    assert main(["facts", "convert", path, f"--out={out}"]) == 2 and "exists; give a new name" in said(capsys)[1]
    assert main(["facts", "convert", path, f"--out={tmp_path / 'no' / 'x'}"]) == 2
    assert "does not exist" in said(capsys)[1]
    assert main(["facts", "convert", path, f"--out={tmp_path / 'y'}", "--to=xml"]) == 2
    assert "invalid choice: 'xml'" in said(capsys)[1]


def test_convert_finds_subjects_where_it_is_asked_to(file, tmp_path, capsys):
    path, out = file([ULTRA]), tmp_path / "out.jsonl"
    assert main(["facts", "convert", path, f"--out={out}"]) == 2 and "--find-subjects" in said(capsys)[1]
    assert main(["facts", "convert", path, f"--out={out}", "--find-subjects"]) == 0
    assert "subjects that the file does not name are found by a rule (record 1)" in said(capsys)[1]
    assert json.loads(out.read_text(encoding="utf-8"))["subject_found"] is True


def test_other_commands_find_subjects_too(file, tiny_folder, capsys):
    words = ["eval", f"--model={tiny_folder}", "--device=cpu", f"--facts={file([ULTRA])}", "--json"]
    assert main(words) == 2 and "subject is missing" in said(capsys)[1]
    assert main([*words, "--find-subjects"]) == 0
    out, err = said(capsys)
    assert json.loads(out)["facts"] == 1 and "found by a rule" in err


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_of_a_good_file(file, capsys):
    assert main(["facts", "check", file(GOOD)]) == 0
    out, _ = said(capsys)
    assert "facts             3\n" in out and "cannot be used    0\n" in out and out.endswith("All is well.\n")


def test_check_says_all_that_is_wrong(file, capsys):
    records = [*GOOD, BAD, GOOD[0], GOOD[1] | {"target_new": "elsewhere", "note": 1}]
    path = file(records)
    assert main(["facts", "check", path]) == 1
    out, _ = said(capsys)
    for part in (
        "facts             5", "cannot be used    1\n", "repeated          1", "contradictions    1",
        "wrong: record 4: prompt 'The capital of Mu is'", "note: record 5 repeats record 1: ",
        "wrong: facts 2 and 6 contradict each other: ", "keys ignored: 'note'",
    ):  # fmt: skip
        assert part in out
    assert "All is well" not in out
    assert main(["facts", "check", path, "--json"]) == 1
    found = json.loads(said(capsys)[0])
    assert (found["facts"], len(found["problems"]), len(found["repeated"]), len(found["contradictions"])) == (
        5,
        1,
        1,
        1,
    )
    assert "model" not in found and found["file"] == path


def test_check_counts_questions_by_kind_and_cuts_long_lists(file, capsys):
    asked = [{"prompt": "a", "answers": ["b"], "kind": "alias"}, {"prompt": "c", "answers": ["d"]}]
    assert main(["facts", "check", file([GOOD[0] | {"portability": asked}, *[BAD] * 25])]) == 1
    out, _ = said(capsys)
    assert "portability       2: alias 1, of no kind 1" in out
    assert out.count("wrong: record") == 20 and "wrong: … and 5 more; --json lists all" in out


def test_check_of_what_is_no_file_of_facts(file, tmp_path, capsys):
    assert main(["facts", "check", str(tmp_path / "nowhere.json")]) == 2
    assert "there is no such file" in said(capsys)[1]
    assert main(["facts", "check", file([BAD])]) == 1 and "facts             0" in said(capsys)[0]
    assert "subject is missing" in check_facts(file([ULTRA])).problems[0]
    assert main(["facts", "check", file([ULTRA]), "--find-subjects"]) == 0
    assert "by a rule         1 of their subjects was found by a rule" in said(capsys)[0]


def test_check_asks_a_model(file, tiny_folder, capsys):
    too_long = GOOD[2] | {"prompt": "so " * 200 + "{} is"}
    path = file([*GOOD[:2], too_long])
    words = ["facts", "check", path, f"--model={tiny_folder}", "--device=cpu"]
    assert main(words) == 1
    out, err = said(capsys)
    assert "said already      " in out and " of 2 new answers" in out and "teacher-forced" in out
    assert "wrong: record 3: " in out and "shorten it" in out and "note: " in err
    assert main([*words, "--json"]) == 1
    asked = json.loads(said(capsys)[0])["model"]
    assert [row["place"] for row in asked["facts"]] == ["record 1", "record 2"] and len(asked["do_not_fit"]) == 1
    assert all(0 < row["probability"] < 1 and isinstance(row["said"], bool) for row in asked["facts"])
    assert asked["protocol"] == "teacher-forced"
    assert main([*words[:3], "--model=no-such-model"]) == 2 and "no-such-model" in said(capsys)[1]


# -- the hub -----------------------------------------------------------------------------------------------------------

BODY = json.dumps(GOOD).encode()
DIGEST = hashlib.sha256(BODY).hexdigest()
SET = HubSet("tiny", "org/facts", "data/facts.json", "Three facts", "mit")


@pytest.fixture
def sets(hub_of_tests, monkeypatch) -> HubServer:
    """A hub with a data set, known by the name "tiny"."""
    monkeypatch.setattr(hub, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(hub_sets, "HUB_SETS", {"tiny": SET})
    hub_of_tests.add("datasets/org/facts", {SET.file: BODY})
    return hub_of_tests


def commit_of(sets: HubServer) -> str:
    return sets.repositories["datasets/org/facts"].refs["main"]


def test_get_prints_and_records_what_it_found(sets, tmp_path, capsys):
    assert main(["facts", "list", "--json"]) == 0
    assert json.loads(said(capsys)[0])[0]["fetched"] is None
    assert main(["facts", "get", "tiny"]) == 0
    out, _ = said(capsys)
    path = tmp_path / "home" / "facts" / "tiny.json"
    assert f"file      {path}" in out and f"revision  {commit_of(sets)} (found, and recorded)" in out
    assert f"SHA-256   {DIGEST} (recorded: the name means this file now)" in out and path.read_bytes() == BODY
    record = json.loads((path.parent / "fetched.json").read_text(encoding="utf-8"))
    assert record["tiny"] == {
        "repo": "org/facts", "file": SET.file, "revision": commit_of(sets), "sha256": DIGEST, "bytes": len(BODY),
    }  # fmt: skip
    assert read_facts(path) == list(tiny_models.FACTS[:3])
    # the second time nobody is asked, and a copy can be had
    sets.log.clear()
    assert main(["facts", "get", "tiny", "--json", f"--out={tmp_path / 'copy.json'}"]) == 0
    found = json.loads(said(capsys)[0])
    assert (found["sha256"], found["new"], found["path"]) == (DIGEST, False, str(tmp_path / "copy.json"))
    assert (tmp_path / "copy.json").read_bytes() == BODY and not sets.log
    assert main(["facts", "get", "tiny", f"--out={tmp_path / 'copy.json'}"]) == 2 and "exists" in said(capsys)[1]
    assert main(["facts", "list"]) == 0 and "tiny                            here" in said(capsys)[0]


def test_a_name_means_the_same_file_until_it_is_updated(sets):
    first = fetch_set(SET)
    newer = json.dumps(GOOD[:2]).encode()
    sets.add("datasets/org/facts", {SET.file: newer})
    first.path.write_bytes(b"[]")  # somebody has changed it
    assert fetched(SET) is None
    again = fetch_set(SET)
    assert (again.revision, again.sha256, again.new) == (first.revision, DIGEST, True)
    assert first.path.read_bytes() == BODY
    updated = fetch_set(SET, update=True)
    assert (updated.revision, updated.path.read_bytes()) == (commit_of(sets), newer)
    assert fetched(SET) == replace(updated, new=False)


def test_a_pinned_revision_is_what_is_fetched(sets, capsys):
    pinned = replace(SET, revision=commit_of(sets), sha256=DIGEST)
    sets.add("datasets/org/facts", {SET.file: b"[]"})
    assert fetch_set(pinned, update=True).sha256 == DIGEST
    hub_sets.HUB_SETS["tiny"] = pinned
    assert main(["facts", "get", "tiny", "--update"]) == 0
    out, err = said(capsys)
    assert "(pinned)" in out and "(as pinned)" in out and "so --update changes nothing" in err


def test_another_digest_is_refused(sets):
    wrong = replace(SET, sha256="0" * 64)
    message = refusal(fetch_set, wrong)
    assert DIGEST in message and "0" * 64 in message and "not the file that was meant" in message
    assert not wrong.place.exists() and fetched(wrong) is None
    # also where only the record knows it, and the cache holds something else
    first = fetch_set(SET)
    first.path.unlink()
    cached = hub.cached_file(SET.repo, SET.file, first.revision, "dataset")
    cached.resolve().write_bytes(b"[1]")
    assert "was expected" in refusal(fetch_set, SET) and not first.path.exists()


def test_without_the_hub(sets, capsys, monkeypatch):
    sets.breaks[SET.file] = [10, 0, 0, 0, 0, 0]
    assert "fetching data/facts.json stopped after" in refusal(fetch_set, SET)
    sets.breaks.clear()
    heard: list[int] = []
    assert fetch_set(SET, heard.append).sha256 == DIGEST and heard[-1] == len(BODY)
    assert "cannot be fetched from org/none at main (the hub" in refusal(fetch_set, replace(SET, repo="org/none"))
    assert "answers 404" in refusal(fetch_set, replace(SET, name="other", file="no.json"))
    sets.unplug()
    close_session()
    assert fetch_set(SET).new is False
    (SET.place.parent / "fetched.json").write_text("{", encoding="utf-8")
    assert main(["facts", "get", "tiny"]) == 2 and "fetched.json cannot be read" in said(capsys)[1]
    (SET.place.parent / "fetched.json").unlink()
    assert main(["facts", "get", "tiny", "--update"]) == 2
    _, err = said(capsys)
    assert err.count("\n") == 1 and "has not been fetched yet, and the hub (127.0.0.1:" in err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refusal(fetch_set, replace(SET, name="other", repo="org/other"))
    assert main(["facts", "get", "no-such"]) == 2 and "'no-such' is unknown; choose one of tiny" in said(capsys)[1]


def test_what_its_authors_publish_elsewhere_is_listed_with_the_way_to_load_it(capsys):
    assert main(["facts", "list"]) == 0
    out, _ = said(capsys)
    assert main(["facts", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(said(capsys)[0])}
    for name in ("mquake", "rippleedits", "qaedit", "ultraeditbench"):
        assert f"note: {name} is not fetched by name" in out and rows[name]["where"].startswith("https://")
        assert main(["facts", "get", name]) == 2
        err = said(capsys)[1]
        assert "encore facts convert FILE" in err and rows[name]["where"] in err and err.count("\n") == 1
    assert "--find-subjects" in err and rows["wikibigedit"]["where"] is None


def test_check_says_that_a_file_goes_on(file, capsys):
    assert main(["facts", "check", file([BAD, *GOOD]), "--limit=2"]) == 1
    assert "facts             2, and more behind them that are not read" in said(capsys)[0]
    assert check_facts(file(GOOD), 3).more is False and check_facts(file(GOOD), 2).more is True


def test_the_table():
    for name, one in HUB_SETS.items():
        assert find_set(name) is one and one.name == name and name == Path(name).name
        assert one.revision is None or len(one.revision) == 40
        assert one.sha256 is None or len(one.sha256) == 64
        assert one.file.endswith((".json", ".jsonl", ".csv")) and one.repo.count("/") == 1
