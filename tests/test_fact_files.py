"""Files of facts: JSON in its wrappings, tables, encodings, and what is no file of facts at all."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import pytest
from refusals import refusal

from encore_core.facts import Fact, FactError, Neighbour, parse_facts, read_facts

ROME = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome"}
OSLO = {"subject": "Spain", "prompt": "The capital of {} is", "target_new": "Oslo"}
BOTH = [Fact(**ROME), Fact(**OSLO)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(delimiter):
    rows = [
        ["Subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours", "relation"],
        ["France", '"The ""capital"", of {}\nis; so"', "Rome", "Paris", "a | b", "c | d => Oslo", "capital"],
        ["Spain", "The capital of Spain is", "Oslo", "", "", "", ""],
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n"
    first, second = parse_facts(text)
    assert first.prompt == 'The "capital", of {}\nis; so'
    assert first.paraphrases == ("a", "b")
    assert first.neighbours == (Neighbour("c", "Paris"), Neighbour("d", "Oslo"))
    assert (first.target_true, first.relation) == ("Paris", "capital")
    assert second == Fact("Spain", "The capital of {} is", "Oslo")


def test_streams_of_text_and_bytes():
    line = json.dumps(ROME, ensure_ascii=False)
    upload = io.BytesIO(b"\xef\xbb\xbf" + line.encode())
    upload.name = "mine.jsonl"
    assert read_facts(upload) == read_facts(io.StringIO(line)) == [Fact(**ROME)]


# ---------------------------------------------------------------------------------------------- bad content

GOOD = json.dumps(ROME)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["pasted", "empty"]),
        (" \n\t\n", ["pasted", "empty"]),
        ("[]", ["no fact"]),
        ('[{"subject": "France",]', ["malformed JSON", "line 1, column 23"]),
        ("[\n1,\n}", ["malformed JSON", "line 3, column 1"]),
        (GOOD + "\n{oops\n", ["line 2", "malformed JSON", "column 2"]),
        ("[" * 100000, ["malformed JSON"]),
        ('{"facts": 3}', ["an object", "not a list of facts", "JSON array"]),
        ("[1, 2]", ["2 of 2 rows", "record 1: 1 is a number", "object"]),
        ('[{"colour": "x"}]', ["record 1", "no known form", "colour", "subject, prompt and target_new"]),
        ('[{"question": "x"}]', ["record 1", "subject is missing"]),
        ('{"train": [{"prompt": "x"}], "test": [{"prompt": "y"}]}', ["several lists", "'train', 'test'", "one wanted"]),
        ('{"data": {"rows": [1]}}', ["an object", "not a list of facts"]),
        ("prompt,target_new\na,b\n", ["columns missing: subject", "looks a subject up"]),
        ("<!DOCTYPE html><html>", ["web page", "Raw"]),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", ["Git LFS pointer", "git lfs pull"]),
        ('[{"subject": "x"}]', ["record 1", "prompt is missing"]),
        ('[{"requested_rewrite": 3}]', ["requested_rewrite 3", "an object"]),
        ("subject,prompt\na,b\n", ["columns missing: target_new", "'subject, prompt'"]),
        ("hello", ["columns missing: subject, prompt, target_new", "'hello'"]),
        (",,,\n", ["columns missing"]),
        ("subject,prompt,target_new\n", ["no fact"]),
        ("subject,prompt,target_new,prompt\na,a,b,c\n", ["twice", "'prompt'"]),
        ("subject,prompt,target_new\na,a, but b,c\n", ["line 2", "4 values for 3 columns", "quotes"]),
        ("subject,prompt,target_new\n\na,a\n", ["line 3", "target_new", "missing"]),
        ("subject,prompt,target_new\na,a,\n", ["line 2", "target_new ''", "blank"]),
        ('subject,prompt,target_new\na,"a b,c\n', ["line 2", "malformed CSV", "quote"]),
    ],
)
def test_bad_content_is_named(text, parts):
    message = refusal(parse_facts, text)
    assert all(part in message for part in parts), message


def test_bad_sources_are_named(tmp_path, monkeypatch):
    assert "no such file" in refusal(read_facts, tmp_path / "none.csv")
    assert "folder" in refusal(read_facts, tmp_path)
    assert "cannot be read" in refusal(read_facts, "a\0b")
    assert "facts cannot be read from 3" in refusal(read_facts, 3)
    path = tmp_path / "x.json"
    path.write_bytes(b"")
    assert "x.json: the file is empty" in refusal(read_facts, path)
    path.write_bytes('[{"subject": "é"}]'.encode("latin-1"))
    assert "not UTF-8" in (message := refusal(read_facts, path)) and "0xe9" in message
    path.write_text("hello", encoding="utf-8")
    assert "malformed JSON" in refusal(read_facts, path)

    def no_reading(*args, **kwargs):
        raise AssertionError("a file that is too large must not be read")

    with path.open("wb") as stream:
        stream.truncate(50_000_000)
    monkeypatch.setattr("pathlib.Path.open", no_reading)
    message = refusal(read_facts, path)
    assert "50.0 MB" in message and "20 MB" in message
    assert "the limit is 30 MB" in refusal(read_facts, path, max_bytes=30_000_000)


def test_large_uploads_are_refused(monkeypatch):
    monkeypatch.setattr("encore_core.facts.source.MAX_BYTES", 100)
    for upload in (io.BytesIO(b"x" * 500), io.StringIO("x" * 500)):
        assert "limit" in refusal(read_facts, upload)
    assert "limit" in refusal(parse_facts, "é" * 60)
    rome = json.dumps(ROME | {"paraphrases": ["x" * 500]})
    assert len(parse_facts(rome, max_bytes=1000)) == len(read_facts(io.StringIO(rome), max_bytes=1000)) == 1


def test_bad_rows_are_listed_or_skipped():
    rows = [ROME | {"target_new": "" if i % 3 == 0 else f"x{i}"} for i in range(1, 100)]
    text = "\n".join(map(json.dumps, rows))
    with pytest.raises(FactError) as caught:
        parse_facts(text, "big.jsonl")
    message = str(caught.value)
    assert message.startswith("big.jsonl: 33 of 99 rows cannot be used: line 3: target_new ''")
    assert "and 28 more (line 18, line 21" in message
    assert len(caught.value.problems) == 33 and len(caught.value.facts) == 66
    assert caught.value.facts[0] == Fact(**ROME | {"target_new": "x1"}) and caught.value.facts[2].place == "line 4"

    notices: list[str] = []
    assert len(parse_facts(text, "big.jsonl", on_error="skip", notice=notices.append)) == 66
    assert len(notices) == 33 and notices[0].startswith("big.jsonl: line 3 skipped: target_new ''")
    assert len(parse_facts(text, limit=2)) == 2  # rows behind the limit are not looked at
    assert "no fact" in refusal(parse_facts, json.dumps(rows[2]), on_error="skip")


def test_what_is_not_understood_is_told():
    notices: list[str] = []
    parse_facts("subject,prompt,target_new,note\na,a,b,c\n", notice=notices.append)
    parse_facts(json.dumps([ROME | {"targt_true": "x"}] * 2), notice=notices.append)
    assert notices == [
        "pasted: columns ignored: 'note'",
        "pasted: keys ignored: 'targt_true' (did you mean target_true?)",
    ]


# ---------------------------------------------------------------------------------------------------- wrapped JSON


def told(text: str | bytes, name: str = "f") -> tuple[list[Fact], list[str]]:
    """The facts in the content of a file, and what was told of it without the file's name."""
    notices: list[str] = []
    stream = io.BytesIO(text.encode() if isinstance(text, str) else text)
    stream.name = name
    return read_facts(stream, notice=lambda line: notices.append(line.removeprefix(f"{name}: "))), notices


FROM_DATA = ["facts are read from 'data'"]
COLUMNS = {key: [ROME[key], OSLO[key]] for key in ROME}
WRAPPED = [
    ({"data": [ROME, OSLO]}, FROM_DATA),
    ({"version": 2, "data": [ROME, OSLO]}, [*FROM_DATA, "keys ignored: 'version'"]),
    ({"object": "list", "data": [ROME, OSLO]}, [*FROM_DATA, "keys ignored: 'object'"]),
    ({"data": {"facts": [ROME, OSLO]}}, ["facts are read from 'facts'", *FROM_DATA]),
    (COLUMNS, []),
    ({key: {"0": pair[0], "1": pair[1]} for key, pair in COLUMNS.items()}, []),
    (COLUMNS | {"note": "x"}, ["keys ignored: 'note'"]),
    ({"columns": list(ROME), "index": [0, 1], "data": [list(ROME.values()), list(OSLO.values())]}, []),
]


@pytest.mark.parametrize(("value", "notices"), WRAPPED, ids=range(len(WRAPPED)))
@pytest.mark.parametrize("indent", [None, 1])
def test_lists_that_are_wrapped_or_turned(value, notices, indent):
    assert told(json.dumps(value, indent=indent)) == (BOTH, notices)


def test_keyed_records_take_their_key_as_name():
    facts, notices = told(json.dumps({"a": ROME, "b": OSLO | {"id": 7}}))
    assert facts == [Fact(**ROME, id="a"), Fact(**OSLO, id="7")] and notices == []
    assert [fact.place for fact in facts] == ["record 1", "record 2"]


def test_a_key_that_is_there_twice_is_told():
    text = '[{"subject": "Spain", "subject": "France", "prompt": "The capital of {} is", "target_new": "Rome"}]'
    assert told(text) == ([Fact(**ROME)], ["keys there twice in one object: 'subject'; the last of each counts"])


@pytest.mark.parametrize("depth", [5, 200, 900, 5000])
@pytest.mark.parametrize("name", ["paraphrases", "locality", "requested_rewrite", "target_true", "note"])
def test_deep_nesting_is_read_or_refused_in_one_line(name, depth):
    text = json.dumps(ROME)[:-1] + f', "{name}": ' + '[{"a":' * depth + '"p"' + "}]" * depth + "}"
    try:
        assert len(parse_facts(text)) == 1
    except FactError as error:
        assert "\n" not in str(error)


# --------------------------------------------------------------------------------------------------------- tables


def row(**cells: str) -> tuple[Fact, list[str]]:
    """The fact in a table of one row with these cells beside the usual ones, and what was told of it."""
    cells = {**ROME, "target_true": "Paris"} | cells
    values = ['"' + cell.replace('"', '""') + '"' for cell in cells.values()]
    (fact,), notices = told(",".join(cells) + "\n" + ",".join(values) + "\n")
    return fact, notices


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nsubject;prompt;target_new\nFrance;The capital of {} is;Rome\n",
        "SEP=,\r\nsubject,prompt,target_new\r\nFrance,The capital of {} is,Rome\r\n",
        '"sep=|"\nsubject|prompt|target_new\nFrance|The capital of {} is|Rome\n',
        "sep=\t\nsubject\tprompt\ttarget_new\nFrance\tThe capital of {} is\tRome\n",
        "sep=;;;\nsubject;prompt;target_new\nFrance;The capital of {} is;Rome\n",
        ",subject,prompt,target_new\n0,France,The capital of {} is,Rome\n",
        "Subject,Prompt,Target New\nFrance,The capital of {} is,Rome\n",
        "subject,src,alt\nFrance,The capital of {} is,Rome\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_of_excel_and_pandas(text, encoding):
    facts, notices = told(text.encode(encoding))
    assert facts == [Fact(**ROME)]
    assert notices == (["columns of no use to an edit, ignored: '(a column without a name)'"] if text[0] == "," else [])


def test_utf_16_of_either_order():
    table = "subject,prompt,target_new\nFrance,The capital of {} is,Röm\n"
    for mark, order in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert told(mark + table.encode(order))[0][0].target_new == "Röm"
        assert "without a byte order mark" in refusal(told, table.encode(order))
    assert "not whole UTF-16 text" in refusal(told, b"\xff\xfe" + table.encode("utf-16-le")[:-1])


def test_lines_are_those_of_the_file_behind_a_sep_line():
    message = refusal(told, "sep=;\nsubject;prompt;target_new\nFrance;The capital of {} is;Rome\nx;y;z\n")
    assert "line 4: prompt 'y'" in message


LISTS = [
    "['a', 'b']",
    '["a", "b"]',
    "['a' 'b']",
    "['a'\n 'b']",
    "[nan, 'a', None, 'b']",
    '["a", null, "b"]',
    "[['a'], ['b']]",
    "a | b",
    " ['a', 'b'] ",
]


@pytest.mark.parametrize("cell", LISTS)
@pytest.mark.parametrize("column", ["paraphrases", "rephrase_prompt"])
def test_lists_in_cells(cell, column):
    fact, notices = row(**{column: cell})
    assert fact.paraphrases == ("a", "b") and notices == []


def test_lists_in_cells_of_neighbours_answers_and_objects():
    fact, _ = row(neighbours="['c', 'd']")
    assert fact.neighbours == (Neighbour("c", "Paris"), Neighbour("d", "Paris"))
    fact, _ = row(neighbours="[{'prompt': 'c', 'target': 'C'}, 'd']")
    assert fact.neighbours == (Neighbour("c", "C"), Neighbour("d", "Paris"))
    fact, _ = row(locality="{'k': {'prompt': ['c'], 'ground_truth': ['C']}}", portability='{"k": [{"prompt": "p"}]}')
    assert fact.neighbours == (Neighbour("c", "C"),)
    fact, notices = row(target_true="['Paris', 'Lutetia']")
    assert fact.target_true == "Paris" and notices == ["target_true holds several values: the first is used (line 2)"]
    assert row(target_true="{'str': 'Paris', 'id': 'Q90'}")[0].target_true == "Paris"
    table = 'requested_rewrite,case_id\n"' + json.dumps(ROME).replace('"', '""') + '",3\n'
    assert told(table)[0] == [Fact(**ROME, id="3")]


@pytest.mark.parametrize("text", ["[1]", "[1, 2]", "{1: 2}", "[]", "{'a'}", "['a'", "[x for x in y]", "{} and {}"])
def test_answers_that_only_look_like_lists_stay_texts(text):
    assert row(target_new=text)[0].target_new == text


def test_prompts_that_look_like_lists_stay_texts():
    assert row(prompt="['France', 'x']")[0].text == "['France', 'x']"
    assert row(paraphrases="[the capital] of France")[0].paraphrases == ("[the capital] of France",)


BROKEN = [
    "['a', 'b",
    "['a', ...]",
    "['a' ... 'b']",
    "['a', b]",
    "[b'a']",
    "array(['a'], dtype=object)",
    "['a', f('b')]",
]
BROKEN += ["[" * 300 + "'a'" + "]" * 300, "['a', 1 # x\n]", "['" + "a" * 120_000 + "']"]


@pytest.mark.parametrize("cell", BROKEN, ids=range(len(BROKEN)))
def test_broken_lists_in_cells_are_refused(cell):
    message = refusal(row, paraphrases=cell)
    assert "line 2: paraphrases" in message and "looks like a list but cannot be read" in message


def test_prompts_in_cells_keep_their_line_ends():
    fact, _ = row(prompt="Where is {}?\n", paraphrases="France is in\n")
    assert fact.prompt == "Where is {}?\n" and fact.paraphrases == ("France is in\n",)


def test_join_in_cells():
    for cell, join in (("none", ""), ("blank", " "), (" ", " "), ("", None)):
        assert row(join=cell)[0].join == join
    assert "join 'x'" in refusal(row, join="x")


# --------------------------------------------------------------------------------------------- what is no file of facts


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook, not text: save it as CSV UTF-8"),
        (zipped("facts.json"), "is a ZIP archive, not text: unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "is an Excel workbook of the old kind"),
        (gzip.compress(b"[]"), "is a gzip archive"),
        (b"PAR1" + bytes(10), "is a Parquet file"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\x01\x02\x00\x03", "zero bytes"),
    ],
    ids=range(7),
)
def test_other_files_are_named(content, said, tmp_path):
    path = tmp_path / "facts.csv"
    path.write_bytes(content)
    message = refusal(read_facts, path)
    assert said in message and "facts.csv" in message
