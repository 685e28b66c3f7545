"""Limits: read from a file with clear errors, and enforced on the server, whatever widgets let through."""

from __future__ import annotations

import gc
import os
import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny_runs
from streamlit.runtime.context import StreamlitHeaders
from streamlit.testing.v1 import AppTest
from tiny_pages import WORKER_STARTERS, errors, opened, words

from dashboard.parts.models import gather_card, jobs_card
from dashboard.server import limits, requester
from dashboard.visitors import access
from dashboard.visitors.models import models
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.judging import Judge
from encore_core.runs import RunStore

FACTS = tiny_runs.FACTS


@pytest.fixture
def given(monkeypatch, tmp_path):
    """`given(text)`: the limits of this server from now on."""
    file = tmp_path / "limits.toml"
    monkeypatch.setenv("ENCORE_CONFIG", str(file))
    count = iter(range(1, 1000))

    def write(text: str) -> None:
        file.write_text(text, encoding="utf-8")
        os.utime(file, ns=(next(count), next(count)))  # two within a tick of the clock are two all the same

    write("")
    return write


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_that_comes_along_says_what_holds_without_it():
    text = limits.FILE.read_text(encoding="utf-8")
    assert limits.parse(text) == limits.Limits()
    lines = [line.removeprefix("# ") if " = " in line.partition("#")[2].partition("#")[0] else line for line in
             text.splitlines()]  # fmt: skip
    uncommented = tomllib.loads("\n".join(lines))
    assert uncommented == asdict(limits.Limits())


def test_what_a_file_leaves_out_is_as_usual(given):
    given("[visitors]\nedits = 5\n")
    assert limits.limits().visitors.edits == 5
    assert limits.limits().visitors.facts == limits.VisitorLimits().facts
    given("[visitors]\nedits = 6\nkeep_minutes = 0\n")  # a change is noticed
    assert limits.limits().visitors.edits == 6 and limits.limits().visitors.keep_minutes == 0


BAD = {
    "no TOML": ("[visitors\n", "is not valid TOML"),
    "twice": ("[runs]\nedits = 1\nedits = 2\n", "is not valid TOML"),
    "endless number": (f"[runs]\nedits = {'9' * 5000}\n", "is not valid TOML"),
    "unknown section": ("[guests]\n", "unknown section 'guests'; choose one of visitors, runs"),
    "no section": ("visitors = 3\n", "is not a section"),
    "unknown key": ("[visitors]\nedit = 3\n", "unknown key 'edit' in [visitors]; did you mean 'edits'?"),
    "key of two lines": (
        '[visitors]\n"a\\nb" = 3\n',
        r"unknown key 'a\nb' in [visitors]; choose one of visitors, edits",
    ),
    "zero": ("[visitors]\nbatch = 0\n", "batch = 0 in [visitors] must be a whole number from 1"),
    "kept for less than no time": ("[visitors]\nkeep_minutes = -1\n", "must be a whole number from 0"),
    "negative": ("[runs]\nqueued = -4\n", "must be a whole number"),
    "fraction": ("[runs]\nedits = 1.5\n", "must be a whole number"),
    "truth": ("[visitors]\nfacts = true\n", "must be a whole number"),
    "text": ('[visitors]\nfacts = "10"\n', "must be a whole number"),
    "huge": ("[visitors]\nfacts = 99999999999999999999\n", "must be a whole number"),
    "not a number": ("[visitors]\nfacts = nan\n", "must be a whole number"),
    "too large for a reader": ("[visitors]\nupload_mb = 5000\n", "at most 20"),
    "word": ('[runs]\nmachine_files = "maybe"\n', '"yes", "no" or "loopback"'),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(given, name):
    text, wanted = BAD[name]
    given(text)
    with pytest.raises(InputError, match=r"limits\.toml") as caught:
        limits.limits()
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ['"short"', '" padded code "', "123456", "true"])
def test_a_bad_access_code_is_refused_without_being_told(given, code):
    given(f"[runs]\naccess_code = {code}\n")
    with pytest.raises(InputError, match="access_code in \\[runs\\] must be a text of at least 6") as caught:
        limits.limits()
    assert code.strip('"') not in str(caught.value)


def test_a_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(InputError, match="ENCORE_CONFIG"):
        limits.limits()
    monkeypatch.delenv("ENCORE_CONFIG")
    monkeypatch.setattr(limits, "FILE", tmp_path / "nowhere.toml")
    assert limits.limits() == limits.Limits()


def test_a_file_that_is_no_text(given, tmp_path):
    (tmp_path / "limits.toml").write_bytes(b"\xff\xfe[\x00")
    with pytest.raises(InputError, match="UTF-8"):
        limits.limits()


# -- what is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "batch_size", "n_edits", "wanted"),
    [
        (9, 2, 0, "9 facts at once; this server takes up to 8"),
        (8, 4, 0, "4 facts per batch; this server takes up to 3"),
        (3, 99, 0, None),  # a batch is never larger than what there is
        (8, 3, 13, "13 edits are on your model, and 8 more go beyond this server's limit of 20"),
        (8, 3, 12, None),
    ],
)
def test_edits_have_limits(given, facts, batch_size, n_edits, wanted):
    given("[visitors]\nfacts = 8\nbatch = 3\nedits = 20\n")
    if wanted is None:
        limits.check_edits(FACTS[:facts], batch_size, n_edits)
        return
    with pytest.raises(InputError) as caught:
        limits.check_edits(FACTS[:facts], batch_size, n_edits)
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"subject": "x" * 31}, "subject has 31 characters"),
        ({"target_new": "y" * 31}, "target_new has 31"),
        ({"target_true": "y" * 31}, "target_true has 31"),
        ({"paraphrases": ["z" * 31]}, "A paraphrase has 31"),
        ({"neighbours": [("z", "n" * 31)]}, "A neighbour has 31"),
        ({"paraphrases": ["a", "b"], "neighbours": [("c", "d"), ("e", "f")]}, "The fact about 'A' has 4 paraphrases"),
        ({"paraphrases": ["a" * 30, "b"], "neighbours": [("c", "d")]}, None),
    ],
)
def test_a_fact_has_limits(given, values, wanted):
    given("[visitors]\ncharacters = 30\nprompts = 3\n")
    fact = Fact(**({"subject": "A", "prompt": "{} is", "target_new": "B"} | values))
    if wanted is None:
        limits.check_fact(fact)
        return
    with pytest.raises(InputError) as caught:
        limits.check_fact(fact)
    assert str(caught.value).startswith(wanted) and "this server takes up to" in str(caught.value)


def test_runs_have_limits(given):
    given("[runs]\nedits = 100\nqueued = 3\n")
    limits.check_runs([100, 1], 1)
    with pytest.raises(InputError, match="A run of 101 edits; this server takes up to 100"):
        limits.check_runs([1, 101], 0)
    with pytest.raises(InputError, match="2 runs wait or run here, and 2 more go beyond this server's limit of 3"):
        limits.check_runs([1, 1], 2)


def test_uploads_have_limits(given):
    given("[visitors]\nupload_mb = 2\n")
    limits.check_upload("The upload", 2_000_000)
    with pytest.raises(InputError, match=r"The upload has 2\.5 MB; this server takes up to 2 MB"):
        limits.check_upload("The upload", 2_500_000)


def test_the_code(given):
    assert not limits.needs_code()
    given('[runs]\naccess_code = "grüne Wiese"\n')
    assert limits.needs_code()
    assert limits.is_code("grüne Wiese") and limits.is_code(" grüne Wiese\n")
    assert not any(map(limits.is_code, ("", "grüne", "GRÜNE WIESE", "grüne Wiese!", "\ud800", "\x00")))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.5.6.7"])
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Host": "localhost:8501"}, {"Host": "127.0.0.1:8501", "Origin": "http://127.0.0.1:8501"},
        {"Host": "[::1]:8501", "Origin": "http://[::1]:8501"}, {"Host": "localhost:9000", "Origin": "https://localhost"},
    ],
)  # fmt: skip
def test_one_who_sits_at_the_machine(address, headers):
    assert requester.is_at_the_machine(address, StreamlitHeaders(headers.items()))


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", None, "", "studio.example.org", "::"])
def test_a_server_that_listens_to_others_knows_nobody_at_its_machine(address):
    assert not requester.is_at_the_machine(address, StreamlitHeaders({"Host": "localhost:8501"}.items()))


@pytest.mark.parametrize(
    "headers",
    [
        *({"Host": "localhost:8501", name: "203.0.113.7"} for name in requester.OF_PROXIES),
        {"host": "127.0.0.1:8501", "x-forwarded-for": "127.0.0.1"},
        # A proxy that says nothing of itself: the browser still says which page it shows, or asked for.
        {"Host": "127.0.0.1:8501", "Origin": "https://studio.example.org"},
        {"Host": "studio.example.org", "Origin": "https://studio.example.org"}, {"Host": "studio.example.org"},
        # Pages of others that send their visitor's browser here, and what is no address.
        {"Host": "localhost.example.org:8501"}, {"Host": "localhost:8501", "Origin": "null"}, {"Host": ""},
        {"Host": "[::1"}, {"Host": "127.0.0.1@studio.example.org"},
    ],
)  # fmt: skip
def test_one_who_comes_through_a_proxy_is_not_at_the_machine(headers):
    assert not requester.is_at_the_machine("127.0.0.1", StreamlitHeaders(headers.items()))


@pytest.mark.parametrize(
    ("setting", "at_the_machine", "allowed"),
    [("loopback", True, True), ("loopback", False, False), ("yes", False, True), ("no", True, False)],
)
def test_files_of_the_machine_are_for_those_at_it(given, setting, at_the_machine, allowed):
    given(f'[runs]\nmachine_files = "{setting}"\n')
    assert limits.may_name_files(at_the_machine) is allowed


@pytest.mark.parametrize(
    ("text", "at_the_machine", "allowed"), [("", True, True), ("", False, False), ('named = "no"', True, False)]
)
def test_a_judge_is_named_by_those_at_the_machine(given, text, at_the_machine, allowed):
    given(f"[judge]\n{text}\n")
    assert limits.may_name_judge(at_the_machine) is allowed and limits.judge_of_server() is None


def test_a_judge_for_everybody(given):
    given('[judge]\nnamed = "no"\naddress = "http://judge:8000/v1"\nmodel = "big"\n')
    assert limits.judge_of_server() == Judge("http://judge:8000/v1", "big")
    for text, what in (('address = "http://x/v1"', "belong together"), ('model = "m"', "belong together"),
                       ('named = "yes"', '"loopback" or "no"'), ("address = 3", "must be a text"),
                       ('address = "rm -rf"\nmodel = "m"', 'must begin with "http://"'),
                       ('address = "http://u:key@x"\nmodel = "m"', "has a name, a password")):  # fmt: skip
        given(f"[judge]\n{text}\n")
        with pytest.raises(InputError, match=re.escape(what)):
            limits.limits()


def test_a_judge_that_is_a_command_needs_files_as_well(given, monkeypatch):
    judge = Judge("judge.sh")
    access.check_judge(judge)
    given('[runs]\nmachine_files = "no"\n')
    with pytest.raises(InputError, match="a command cannot be named here"):
        access.check_judge(judge)
    access.check_judge(Judge("http://localhost/v1", "m"))
    given('[runs]\nmachine_files = "yes"\n[judge]\nnamed = "no"\n')
    for one in (judge, Judge("http://localhost/v1", "m")):
        with pytest.raises(InputError, match="cannot be named here"):
            access.check_judge(one)


# -- on the server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch, tiny_folder, tmp_path, surroundings):
    """A server of its own with the tiny model and an empty store. No process is started; devices that ask for one."""
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    asked: list[str] = []
    for place in WORKER_STARTERS:
        monkeypatch.setattr(place, lambda store, device: asked.append(device))
    return asked


def test_a_visitor_is_held_to_the_limits(server, given):
    app = opened("edit")
    visitor = app.session_state["visitor"]
    given("[visitors]\nfacts = 2\n")
    with pytest.raises(InputError, match="3 facts at once"):
        visitor.begin(FACTS[:3], 1, "refuse")
    assert visitor.job is None and visitor.session.n_edits == 0
    given("[visitors]\ncharacters = 5\n")
    app.button(key="apply").click().run()
    assert any("characters; this server takes up to 5" in text for text in errors(app))
    given("")
    visitor.begin(FACTS[:2], 1, "refuse")
    with pytest.raises(InputError, match="still being applied"):
        visitor.begin(FACTS[:1], 1, "refuse")


def test_typed_and_pasted_texts_are_held_to_the_limits(server, given):
    given("[visitors]\ncharacters = 40\n")
    app = opened("edit")
    app.segmented_control(key="source").set_value("Your own").run()
    app.text_input(key="subject").set_value("x" * 41)
    app.text_input(key="prompt").set_value("{} is").run()
    assert any("subject has 41 characters" in text for text in errors(app))
    app.text_input(key="subject").set_value("Peru").run()
    app.text_input(key="free_prompt").set_value("y " * 30).run()
    assert any("Your own prompt has 60 characters" in text for text in errors(app))
    app.segmented_control(key="source").set_value("Table").run()
    app.text_area(key="pasted").set_value(f"subject,prompt,target_new\n{'z' * 41},{{}} is,so\n").run()
    assert any("subject has 41 characters" in text for text in errors(app))
    given("[visitors]\nupload_mb = 1\n")
    app.text_area(key="pasted").set_value("a" * 1_000_001).run()
    assert any("The pasted table has 1.0 MB; this server takes up to 1 MB" in text for text in errors(app))


def test_a_full_server_says_so_and_has_room_again(server, given):
    models.clear()  # and so all who were here before
    given("[visitors]\nvisitors = 1\n")
    first = opened("edit")
    late = opened("edit")
    assert any("This server is full: 1 visitor at a time" in text for text in errors(late))
    assert "visitor" not in late.session_state
    del first
    gc.collect()
    next(button for button in late.button if button.label == "Try again").click().run()
    assert not errors(late) and late.session_state["visitor"]


def started(app: AppTest) -> AppTest:
    app.multiselect(key="run_methods").set_value(["MEMIT", "ENCORE"])
    app.number_input(key="run_n").set_value(5).run()
    return app.button(key="start").click().run()


def test_runs_are_held_to_the_limits(server, given):
    given("[runs]\nedits = 4\n")
    app = started(opened("run"))
    assert any("A run of 5 edits; this server takes up to 4" in text for text in errors(app))
    given("[runs]\nqueued = 1\n")
    app.button(key="start").click().run()
    assert any("limit of 1" in text for text in errors(app)) and not RunStore().runs() and not server
    given("[runs]\nqueued = 2\n")
    app.button(key="start").click().run()
    assert len(RunStore().runs()) == 2 and server
    [run_id, _] = [run.id for run in RunStore().runs()]
    RunStore().cancel(run_id)
    given("[runs]\nqueued = 1\n")
    page = opened("runs", run=run_id)
    page.button(key="record_resume").click().run()
    assert any("limit of 1" in text for text in errors(page)) and RunStore().get(run_id).status == "cancelled"


def test_runs_are_started_by_those_who_know_the_code(server, given, monkeypatch):
    monkeypatch.setattr("dashboard.elements.access_code.WRONG_SECONDS", 0.0)
    given('[runs]\naccess_code = "open sesame"\n')
    app = opened("run")
    app.multiselect(key="run_methods").set_value(["MEMIT"]).run()
    assert app.button(key="start").disabled

    def unlock(code: str) -> None:
        app.text_input(key="access_code").set_value(code)
        next(button for button in app.button if button.label == "Unlock").click().run()

    unlock("open barley")
    assert any("not the access code" in text for text in errors(app)) and app.button(key="start").disabled
    unlock("open sesame")
    assert not app.button(key="start").disabled and "sesame" not in words(app)
    app.run()
    assert not [field for field in app.text_input if field.key == "access_code"]  # asked for once a session
    app.button(key="start").click().run()
    [run] = RunStore().runs()
    RunStore().cancel(run.id)
    # Somebody else has to give it, too; and whoever gave the old one gives the new one.
    other = opened("runs", run=run.id)
    other.button(key="record_resume").click().run()
    assert any("needs the access code" in text for text in errors(other))
    given('[runs]\naccess_code = "open rye bread"\n')
    app.button(key="start").click().run()  # still drawn as it was
    assert any("needs the access code" in text for text in errors(app)) and len(RunStore().runs()) == 1
    assert app.button(key="start").disabled


def test_gathering_statistics_needs_the_code_too(server, given):
    given('[runs]\naccess_code = "open sesame"\n')
    for begin in (gather_card.start, jobs_card.resume):
        with pytest.raises(InputError, match="needs the access code"):
            begin(None)


def test_files_of_the_machine_are_not_named_where_that_is_forbidden(server, given, tmp_path, tiny_folder):
    given('[runs]\nmachine_files = "no"\n')
    facts = tmp_path / "secret.jsonl"
    facts.write_text('{"subject": "A", "prompt": "{} is", "target_new": "B"}\n', encoding="utf-8")
    app = opened("run")
    assert not errors(app)  # the model that the server came with is a folder, too
    app.selectbox(key="run_source").set_value("file").run()
    app.text_input(key="run_path").set_value(str(facts)).run()
    assert any("cannot be named here" in text for text in errors(app)) and "1 fact. First" not in words(app)
    app.selectbox(key="run_source").set_value("bundled").run()
    for key in ("run_statistics", "run_downstream"):
        app.text_input(key=key).set_value(str(tmp_path)).run()
        assert any("cannot be named here" in text for text in errors(app)), key
        assert app.button(key="start").disabled
        app.text_input(key=key).set_value("").run()
    from dashboard.visitors import access

    for name in ("/etc", "../x", "~/model", "./m", "a/b/c", str(tmp_path), "a\\..\\b", "x\0y"):
        with pytest.raises(InputError, match="cannot be named here"):
            access.check_model(name)
    for name in ("smollm2-135m", "gpt2", "org/model", str(tiny_folder)):
        access.check_model(name)


def test_limits_that_cannot_be_read_stop_what_they_are_for(server, given):
    app = opened("edit")
    given("[visitors]\nfacts = 0\n")
    app.button(key="apply").click().run()
    assert any("facts = 0 in [visitors] must be" in text for text in errors(app))
    assert app.session_state["visitor"].session.n_edits == 0
    late = opened("edit")
    assert any("facts = 0" in text for text in errors(late)) and "visitor" not in late.session_state


def test_the_file_is_part_of_the_program():
    assert Path(limits.FILE).is_file() and Path(limits.FILE).name == "encore.toml"
