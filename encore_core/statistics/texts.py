"""Text for key statistics: from the hub, from a file, sampled from the model itself, or the bundled sample.

wikitext   Salesforce/wikitext, wikitext-103-raw-v1: paragraphs without headings
wikipedia  wikimedia/wikipedia, 20231101.en: the beginnings of articles
sampled    the model's continuations of single words. Every passage begins with another token of the vocabulary that
           begins a word, drawn with a seed and without replacement, and is sampled at temperature 1 with top-p 0.95. So
           the text covers everything that the model has words for, and continues them in the model's own proportions
bundled    the text that comes with the program, sampled from the embedded model
else       a UTF-8 file, passages separated by blank lines

Only the needed parts of a hub's file are fetched, groups of rows in a seeded order. Fetched and sampled text is kept,
so that the same request gets the same text again, also offline.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from encore_core.editing.covariance import BUNDLED, SAMPLED_TEXT, read_text, source_of
from encore_core.errors import InputError, quoted
from encore_core.forward.decoding import nothing_but_asked
from encore_core.forward.tokens import tokens_of
from encore_core.hub import hub_trouble, reason_of
from encore_core.models.editable import EditableModel, Progress
from encore_core.storage import append_line, data_folder, is_file, named_path, replacing, writing

log = logging.getLogger(__name__)

SAMPLED = "sampled"
SEED = 0
CHARACTERS_PER_TOKEN = 6
"""More than English has with any of the usual tokenizers, so that a fetched text is long enough."""

ARTICLE_CHARACTERS = 4000
"""Most characters of one article, so that long ones do not dominate."""

PASSAGES, PASSAGE_TOKENS = 16, 192
"""Passages sampled at a time, and the length of each."""


@dataclass(frozen=True)
class _HubText:
    """Where a text is on the hub.

    Attributes:
        repo, folder, parts: data set, folder in it, and names of the Parquet files that are used.
        clean: makes a passage from a row, or "" to leave it out.
    """

    repo: str
    folder: str
    parts: tuple[str, ...]
    clean: Callable[[str], str]


def _paragraph(row: str) -> str:
    """A paragraph of wikitext; "" for headings and blank rows. Marks of its tokenisation (" @-@ ") are undone."""
    row = row.strip()
    return "" if row.startswith("=") else re.sub(r" @(.)@ ", r"\1", row)


def _article(row: str) -> str:
    return re.sub(r"\n\s*\n", "\n", row[:ARTICLE_CHARACTERS].strip())


HUB_TEXTS = {
    "wikitext": _HubText(
        "Salesforce/wikitext", "wikitext-103-raw-v1",
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"), _paragraph,
    ),
    "wikipedia": _HubText(
        "wikimedia/wikipedia", "20231101.en",
        tuple(f"train-{number:05d}-of-00041.parquet" for number in (0, 8, 16, 24, 32, 40)), _article,
    ),
}  # fmt: skip

SOURCES = (*HUB_TEXTS, SAMPLED, BUNDLED)


@dataclass(frozen=True)
class Text:
    """A text for statistics.

    Attributes:
        content: passages separated by blank lines.
        source: its name in lists.
    """

    content: str
    source: str


def check_source(source: str) -> None:
    """Check a source before a model is loaded.

    Raises:
        InputError: for a name that is neither a source nor a file, and for a text from the hub that is not here when
            the hub cannot be reached.
    """
    if source in HUB_TEXTS:
        if not list(_folder().glob(f"{source}-*.txt")):
            _check_hub(source)
    elif source not in (SAMPLED, BUNDLED) and not is_file(source):
        raise InputError(f"Unknown source {quoted(source)}; give {', '.join(SOURCES)} or a text file.")


def text_of(
    lm: EditableModel,
    source: str,
    n_tokens: int,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Text:
    """The text of a source, fetched or sampled if that has not been done before.

    Args:
        lm: the model, with its base weights.
        source: one of `SOURCES`, or a file.
        n_tokens: how many tokens are wanted; a file is always read whole.
        progress: called while fetching and sampling.
        stop: called between batches of sampling; when it returns True, what has been sampled is kept and `Interrupted`
            is raised.

    Raises:
        InputError: when there is no such source, or the hub cannot be reached.
        Interrupted: see `stop`.
    """
    check_source(source)
    tell = progress or (lambda what, share: None)
    if source in HUB_TEXTS:
        return Text(_fetched(source, n_tokens, tell), source)
    if source == SAMPLED:
        return Text(_sampled(lm, n_tokens, tell, stop), "sampled from the model")
    path = SAMPLED_TEXT if source == BUNDLED else named_path(source)
    return Text(read_text(path), source_of(path))


class Interrupted(Exception):
    """Raised after a request to stop; what has been done is kept."""


def _folder() -> Path:
    return data_folder() / "texts"


# -- from the hub ------------------------------------------------------------------------------------------------------


def _check_hub(source: str) -> None:
    """Refuse a text that has not been fetched when the hub cannot be asked for it."""
    trouble = hub_trouble()
    if trouble is not None:
        raise InputError(
            f"The text of {source} has not been fetched yet, and {trouble}; {trouble.remedy}, or use another source: "
            f"{SAMPLED}, {BUNDLED} or a text file."
        )


def _fetched(source: str, n_tokens: int, tell: Progress) -> str:
    # In steps of a million characters, so that similar requests use the same text.
    wanted = -(-n_tokens * CHARACTERS_PER_TOKEN // 10**6) * 10**6
    file = _folder() / f"{source}-{wanted}.txt"
    if not file.is_file():
        _check_hub(source)
        text = _fetch(source, wanted, tell)
        with replacing(file) as part:
            part.write_text(text, encoding="utf-8")
    return read_text(file)


def _fetch(source: str, n_characters: int, tell: Progress) -> str:
    passages: list[str] = []
    total = 0
    try:
        for row in _rows(HUB_TEXTS[source]):
            passage = HUB_TEXTS[source].clean(row)
            if passage:
                passages.append(passage)
                total += len(passage)
                if total >= n_characters:
                    break
                if len(passages) % 500 == 0:
                    tell(f"Fetching {source}", total / n_characters)
    # The client and the reader raise many kinds of errors, which all mean the same here.
    except Exception as error:
        raise InputError(
            f"The text of {source} cannot be fetched from {HUB_TEXTS[source].repo} ({reason_of(error)}); try again, or "
            f"use another source: {SAMPLED}, {BUNDLED} or a text file."
        ) from error
    return "\n\n".join(passages) + "\n"


def _rows(text: _HubText) -> Iterator[str]:
    """Rows of a hub's text, group by group in a seeded order over all its files; groups are fetched when needed."""
    from huggingface_hub import HfFileSystem, constants
    from pyarrow.parquet import ParquetFile

    hub = HfFileSystem(endpoint=constants.ENDPOINT, skip_instance_cache=True)
    files = [ParquetFile(hub.open(f"datasets/{text.repo}/{text.folder}/{part}")) for part in text.parts]
    groups = [(file, group) for file in files for group in range(file.num_row_groups)]
    random.Random(SEED).shuffle(groups)
    for file, group in groups:
        yield from file.read_row_group(group, columns=["text"])["text"].to_pylist()


# -- from the model itself ---------------------------------------------------------------------------------------------


def _sampled(lm: EditableModel, n_tokens: int, tell: Progress, stop: Callable[[], bool]) -> str:
    """Text sampled from a model. Each batch of passages is appended to a file as a line, so none is made twice."""
    file = _folder() / f"sampled-{lm.texts_key}-{SEED}.jsonl"
    batches = _whole_lines(file)
    total = sum(batch["tokens"] for batch in batches)
    starts = _first_tokens(lm) if total < n_tokens else []
    while total < n_tokens:
        if stop():
            raise Interrupted
        tell("Sampling text from the model", total / n_tokens)
        batch = _sample_batch(lm, starts, len(batches))
        append_line(file, json.dumps(batch, ensure_ascii=False))
        batches.append(batch)
        # A model that says nothing at all must not cause an endless loop.
        if not batch["tokens"]:
            raise InputError(f"Model {quoted(lm.name)} ends every text at once, so none can be sampled; give another.")
        total += batch["tokens"]
    passages, total = [], 0
    for batch in batches:
        if total >= n_tokens:
            break
        passages += batch["passages"]
        total += batch["tokens"]
    return "\n\n".join(passages) + "\n"


def _whole_lines(file: Path) -> list[dict]:
    """The batches of a file; an incomplete last line, left by a killed process, is removed."""
    content = file.read_bytes() if file.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with writing(file), file.open("r+b") as opened:
            opened.truncate(len(whole))
    return [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]


def _first_tokens(lm: EditableModel) -> list[int]:
    """Tokens that begin a word, in a seeded order."""
    pieces = lm.tokenizer.convert_ids_to_tokens(range(len(lm.tokenizer)))
    # Tokenizers mark a blank before a word differently; a word is letters after any of these marks.
    found = [
        token
        for token, piece in enumerate(pieces)
        if isinstance(piece, str) and len(piece) > 2 and piece[0] in "Ġ▁" and piece[1:].isalpha()
    ]
    found = found or [token for token in range(len(pieces)) if token not in lm.special_ids]
    random.Random(SEED).shuffle(found)
    return found


@torch.no_grad()
def _sample_batch(lm: EditableModel, starts: list[int], number: int) -> dict:
    """One batch of passages, always the same for its number."""
    first = [starts[(number * PASSAGES + place) % len(starts)] for place in range(PASSAGES)]
    (lead,) = tokens_of(lm, ["a"])
    before = list(lead.ids[: lead.n_added])
    ids = torch.tensor([[*before, token] for token in first], device=lm.device)
    length = min(PASSAGE_TOKENS, lm.max_length - ids.shape[1])
    with lm.lock, nothing_but_asked(lm), torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        torch.manual_seed(SEED + number)
        rows = lm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_p=0.95, top_k=0,
            max_new_tokens=length,
        )  # fmt: skip
    texts = lm.tokenizer.batch_decode(rows, skip_special_tokens=True)
    # Blank lines separate passages, so a passage must not contain one.
    passages = [passage for text in texts if (passage := " ".join(text.split()))]
    tokens = sum(len(one.ids) for one in tokens_of(lm, passages))
    return {"tokens": tokens, "passages": passages}
