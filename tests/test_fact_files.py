"""X"""

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
        ('[{"question": "x"}]', ["record 1", "no known form", "question", "subject, prompt and target_new"]),
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


def test_large_uploads_are_refused(monkeypatch):
    monkeypatch.setattr(facts_module, "MAX_BYTES", 100)
    for upload in (io.BytesIO(b"x" * 500), io.StringIO("x" * 500)):
        assert "limit" in refusal(read_facts, upload)
    assert "limit" in refusal(parse_facts, "é" * 60)


def test_bad_rows_are_listed_or_skipped():
    rows = [ROME | {"target_new": "" if i % 3 == 0 else f"x{i}"} for i in range(1, 100)]
    text = "\n".join(map(json.dumps, rows))
    with pytest.raises(FactError) as caught:
        parse_facts(text, "big.jsonl")
    message = str(caught.value)
    assert message.startswith("big.jsonl: 33 of 99 rows cannot be used: line 3: target_new ''")
    assert "and 28 more (line 18, line 21" in message
    assert len(caught.value.problems) == 33

    notices: list[str] = []
    assert len(parse_facts(text, "big.jsonl", on_error="skip", notice=notices.append)) == 66
    assert len(notices) == 33 and notices[0].startswith("big.jsonl: line 3 skipped: target_new ''")
    assert len(parse_facts(text, limit=2)) == 2  # rows behind the limit are not looked at
    assert "no fact" in refusal(parse_facts, json.dumps(rows[2]), on_error="skip")


def test_what_is_not_understood_is_told():
    notices: list[str] = []
    parse_facts("subject,prompt,target_new,note\na,a,b,c\n", notice=notices.append)
    parse_facts(json.dumps([ROME | {"targt_true": "x"}] * 2), notice=notices.append)
    assert notices == ["pasted: columns ignored: 'note'", "pasted: keys ignored: 'targt_true'"]


