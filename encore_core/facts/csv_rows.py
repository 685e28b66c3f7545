"""The rows of tables: `,` `;` or tab, Excel's `sep=` line, and lists that pandas has written into cells.

A cell may hold several paraphrases or neighbours, separated by ` | ` or as a list (`['a', 'b']`); a neighbour is a
prompt (whose answer is the true one) or `prompt => answer`. In the column `join`, "none" means that nothing separates
prompt and answer, and "blank" that a blank does.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from encore_core.errors import first_line, quoted
from encore_core.facts.found import BY_RULE
from encore_core.facts.json_rows import Row
from encore_core.facts.names import KNOWN, NAMELESS, NAMES, PAIRED, REWRITE, THINGS, has, plain
from encore_core.facts.notices import Telling
from encore_core.facts.texts import FactError, key_name, named

MOST_IN_CELL = 100_000
"""Most characters of a cell that is read as a list."""

MOST_LEVELS = 5
"""Most levels of lists within lists; an answer that seems to have more is a text."""

_SEP_LINE = re.compile(r'\s*"?sep=(.)"?[ ,;\t]*\r?\n', re.IGNORECASE)
_LIST = re.compile(r"""\s*(\[\s*([bru]?['"]|[\[{]|nan\b|None\b|null\b|\]\s*$)|\{\s*(['"]|\}\s*$)|array\()""")
_SPLIT = (*NAMES["paraphrases"], *NAMES["neighbours"])
_ANSWERS = (*NAMES["target_new"], *NAMES["target_true"], *NAMES["said"])
_HOPS = ("questions", "new_answer_alias", "new_answer_aliases", "answer_alias", "answer_aliases")
_JOINS = {"none": "", "blank": " "}


def csv_rows(text: str, name: str, telling: Telling, find: bool = False) -> Iterator[Row]:
    """The rows of a table as records.

    Args:
        text: the table.
        name: of the file.
        telling: gets the columns that are not used.
        find: whether a column of subjects may be missing, because a rule finds them.

    Raises:
        FactError: when the table as a whole cannot be used.
    """
    text, delimiter, skipped = _layout(text)
    # newline="" and strict: line breaks inside quotes are kept, and an unclosed quote is an error
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = _header(table, name, telling, find)
    while True:
        where = f"line {table.line_num + skipped + 1}"
        try:
            cells = next(table, None)
        except csv.Error as error:
            # after a wrong quote the following rows cannot be told apart
            yield (
                where,
                FactError(f"malformed CSV ({first_line(error)}): close every quote, and double those inside one"),
            )
            return
        if cells is None:
            return
        if not _filled(cells):
            continue
        if len(cells) > len(header):
            yield (
                where,
                FactError(
                    f"{len(cells)} values for {len(header)} columns: put quotes around values with a {delimiter!r}"
                ),
            )
            continue
        try:
            yield where, {column: _value(column, cell) for column, cell in zip(header, cells, strict=False)}
        except FactError as error:
            yield where, error


def _layout(text: str) -> tuple[str, str, int]:
    """The table without Excel's `sep=` line, its delimiter, and how many lines were removed."""
    found = _SEP_LINE.match(text)
    if found:
        return text[found.end() :], found[1], text.count("\n", 0, found.end())
    return text, _delimiter(text), 0


def _delimiter(text: str) -> str:
    """The delimiter that finds most of our columns in the first line; a comma when none finds any."""
    header = text.lstrip().split("\n", 1)[0]

    def columns_found(delimiter: str) -> int:
        return sum(plain(cell.strip(' "\r')) in KNOWN for cell in header.split(delimiter))

    return max(",;\t", key=columns_found)


def _header(table: Iterator[list[str]], name: str, telling: Telling, find: bool) -> list[str]:
    try:
        header = [cell.strip() or NAMELESS for cell in next(filter(_filled, table), [])]
    except csv.Error as error:
        raise FactError(f"{name}: malformed CSV in the header ({first_line(error)}): close every quote") from error
    names = {plain(column) for column in header}
    missing = [] if REWRITE in names else [thing for thing in THINGS if not has(names, thing)]
    if find and missing == ["subject"]:
        missing = []
    if missing:
        found = ", ".join(column for column in header if column != NAMELESS)
        reason = ""
        if missing == ["subject"]:
            reason = f", because every method here looks a subject up; or let a rule find it {BY_RULE}"
        raise FactError(
            f"{name}: CSV columns missing: {', '.join(missing)}; found: {quoted(found)}: the first line "
            f"must name subject, prompt and target_new{reason} (or give JSON)"
        )
    counts = Counter(plain(column) for column in header if column != NAMELESS)
    twice = sorted(column for column, count in counts.items() if count > 1)
    if twice:
        raise FactError(f"{name}: CSV columns there twice: {named(twice)}: keep one of each")
    for column in header:
        if plain(column) not in KNOWN and plain(column) not in _HOPS:
            telling.leave(column)
    return header


def _filled(cells: Sequence[str]) -> bool:
    return any(cell.strip() for cell in cells)


# -- cells -------------------------------------------------------------------------------------------------------------


def _value(column: str, cell: str) -> Any:
    """The value of a cell, depending on its column."""
    name = plain(column)
    if name in NAMES["join"]:
        return cell if cell == " " else _JOINS.get(cell.strip().lower(), cell.strip() or None)
    if not cell.strip():
        return cell
    if name in _ANSWERS:
        # an answer may itself look like a list ("[1]"), so only lists of texts are read as lists
        found = _listed(cell)
        return found if _of_texts(found) else cell
    if name in _SPLIT or name in PAIRED or name in _HOPS or name == REWRITE:
        found = _listed(cell)
        if found is None and _LIST.match(cell):
            raise FactError(
                f"{key_name(column)} {quoted(cell)} looks like a list but cannot be read as one: "
                "write it whole, with quotes around each text"
            )
        if found is not None:
            return found
    if name not in _SPLIT:
        return cell
    values = [value for value in re.split(r"\s\|\s", cell) if value.strip()]
    if name in NAMES["neighbours"]:
        pairs = [value.rpartition(" => ") for value in values]
        return [(prompt, answer) if prompt else answer for prompt, _, answer in pairs]
    return values


def _of_texts(value: Any, level: int = 0) -> bool:
    """True for a list of texts, nested or not, and for `{"str": ...}`."""
    if isinstance(value, Mapping):
        return isinstance(value.get("str"), str)
    if not isinstance(value, list) or not value or level > MOST_LEVELS:
        return False
    return all(isinstance(one, str) or _of_texts(one, level + 1) for one in value)


def _listed(cell: str) -> Any:
    """The list or object in a cell, as JSON, Python or numpy writes it; None if it is neither."""
    if len(cell) > MOST_IN_CELL or not _LIST.match(cell):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = _python(cell)
    return found if isinstance(found, (list, dict)) else None


def _python(cell: str) -> Any:
    """The value of a Python literal. Adjacent texts are separate (numpy writes no commas), and nan becomes None."""
    words: list[str] = []
    texts: list[bool] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(cell.strip()).readline):
            if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
                continue
            is_text = token.type == tokenize.STRING
            if is_text and texts and texts[-1]:
                words.append(",")
            words.append(
                {"nan": "None", "null": "None", "true": "True", "false": "False"}.get(token.string, token.string)
            )
            texts.append(is_text)
        found = ast.literal_eval(" ".join(words))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    return found if _is_json(found) else None


def _is_json(value: Any) -> bool:
    """True for values that JSON has, too: no sets, bytes or ellipses."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, int, float, bool))
