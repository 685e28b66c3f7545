"""The start token of a model: a token put in front of every text that it reads here, or none.

The first token of a text is an attention sink (StreamingLLM, arXiv 2309.17453). In models whose tokenizer puts no BOS
there (GPT-2, Pythia, Qwen, SmolLM), the text's own first token is lost: "Paris is the capital of" is read as
"… is the capital of", and an edit of Paris is never said. A special token in front takes that position, as in
TransformerLens by default. Which token helps is measured, not read from the tokenizer: SmolLM2's declared BOS does not,
but the token that separated its training documents does.

`find` decides, in this order: what the user wants; none if the tokenizer puts a token in front; the token that an
edited folder was edited with; the token of the model's row (`methods.ModelRow.start_token`; none in rows that follow
published results, which were measured without one); what `measured` found, once per model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from encore_core.errors import InputError, quoted
from encore_core.facts.joining import joined
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
"""What a user gives for "as suits the model", and for "nothing in front"."""

REPORT_FILE, REPORT_KEY = "edit_report.json", "start_token"
"""Where an edited folder records the token it was edited with."""

LEAST_GAIN = 0.5
"""Nats of mean log-probability that a token must gain on facts that begin with their subject."""

MOST_LOSS = 0.25
"""Nats that it may lose on facts that do not."""

LEAST_PROBABILITY = 0.02
"""Least probability of answers to the first facts; below it, a model does not know them well enough to judge tokens."""

FIRST_TOKEN_FACTS = (
    ("Paris is the capital of", "France"), ("Tokyo is the capital of", "Japan"),
    ("Berlin is the capital of", "Germany"), ("Madrid is the capital of", "Spain"),
    ("Moscow is the capital of", "Russia"), ("Cairo is the capital of", "Egypt"),
    ("Athens is the capital of", "Greece"), ("London is the capital of", "England"),
    ("Chicago is located in the country of", "the United States"), ("Toronto is located in the country of", "Canada"),
    ("Microsoft was founded by", "Bill Gates"), ("Amazon was founded by", "Jeff Bezos"),
    ("Egypt is located on the continent of", "Africa"), ("Spain is located on the continent of", "Europe"),
    ("Einstein developed the theory of", "relativity"), ("France has the capital", "Paris"),
)  # fmt: skip
"""Facts that most models know, whose subject is the first token of the text."""

OTHER_FACTS = (
    ("The capital of France is", "Paris"), ("The capital of Japan is", "Tokyo"), ("The capital of Italy is", "Rome"),
    ("The theory of relativity was developed by", "Albert Einstein"), ("The currency of Japan is the", "yen"),
    ("The largest planet in the solar system is", "Jupiter"), ("The company Microsoft was founded by", "Bill Gates"),
    ("The chemical symbol for gold is", "Au"),
)  # fmt: skip
"""Facts whose subject comes later in the text, which a start token must not spoil."""


@dataclass(frozen=True)
class Measured:
    """The effect of a start token on a model.

    Attributes:
        token: the token, "" for none.
        first: mean log-probability of the answers to `FIRST_TOKEN_FACTS`, natural logarithm.
        others: the same of `OTHER_FACTS`.
    """

    token: str
    first: float
    others: float


def find(
    model: nn.Module,
    tokenizer,
    wanted: str | None,
    *,
    of_row: str | None,
    folder: Path | None,
    fingerprint: str,
    tell: Callable[[str, float], None],
) -> int | None:
    """The id of a model's start token, None for none.

    Args:
        model: loaded, with its base weights.
        tokenizer: its own.
        wanted: "auto", "none" or a token of the vocabulary; None means "auto".
        of_row: from the model's row of hyper-parameters: a token, "none", or None without a row.
        folder: the model's folder, if it has one.
        fingerprint: of the model, under which a measurement is kept.
        tell: called when tokens are measured.

    Raises:
        InputError: for a token that is not in the vocabulary, or one that the tokenizer puts in front itself.
    """
    wanted = AUTO if wanted is None else wanted.strip()
    if wanted.lower() == NONE:
        return None
    if puts_one_in_front(tokenizer):
        if wanted.lower() != AUTO:
            raise InputError(
                f"Start token {quoted(wanted)} does not suit this model: its tokenizer already puts a token in front "
                "of every text; leave it out."
            )
        return None
    if wanted.lower() != AUTO:
        return _id(tokenizer, wanted)
    said = _said(folder, of_row) or _kept(fingerprint)
    if said is None:
        said = _measured_once(model, tokenizer, fingerprint, tell)
    return None if said == NONE or said not in tokenizer.get_vocab() else _id(tokenizer, said)


def foretold(tokenizer, *, of_row: str | None, folder: Path | None, fingerprint: str | None) -> str:
    """What `find` will give by default, as a text for people, without loading the model.

    Args:
        tokenizer, of_row, folder: as for `find`.
        fingerprint: of the model, if it has been loaded before.
    """
    if puts_one_in_front(tokenizer):
        return "none: the tokenizer puts a token in front itself"
    said = _said(folder, of_row) or (_kept(fingerprint) if fingerprint else None)
    if said is None:
        return "measured when the model is loaded first"
    return said if said in tokenizer.get_vocab() else NONE


def _said(folder: Path | None, of_row: str | None) -> str | None:
    """The token from an edited folder, or else from the model's row; None if neither says."""
    return (_of_edited_folder(folder) if folder is not None else None) or of_row


def puts_one_in_front(tokenizer) -> bool:
    """Whether a tokenizer itself puts a token in front of every text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    return bool(found["special_tokens_mask"]) and bool(found["special_tokens_mask"][0])


def _id(tokenizer, token: str) -> int:
    found = tokenizer.get_vocab().get(token)
    if found is None:
        special = ", ".join(dict.fromkeys(tokenizer.all_special_tokens))
        raise InputError(
            f"Start token {quoted(token)} is not in the model's vocabulary; give {AUTO!r}, {NONE!r} or a token such as "
            f"one of its special ones: {special or 'it has none'}."
        )
    return int(found)


def _of_edited_folder(folder: Path) -> str | None:
    """The token that an edited model's folder was edited with; None for a folder not made by this program.

    A report without a token is from a version before start tokens.
    """
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict):
        return None
    token = report.get(REPORT_KEY)
    return token if isinstance(token, str) else NONE


# -- measuring ---------------------------------------------------------------------------------------------------------


def _file_of(fingerprint: str) -> Path:
    return data_folder() / "start_tokens" / f"{fingerprint}.json"


def _kept(fingerprint: str) -> str | None:
    """The result of an earlier measurement: a token or "none"; None if there was none."""
    file = _file_of(fingerprint)
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))["token"]
        if isinstance(kept, str):
            return kept
        raise ValueError("no token in it")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("The start token in %s cannot be read (%s); it is measured again.", file, error)
    return None


def _measured_once(model: nn.Module, tokenizer, fingerprint: str, tell: Callable[[str, float], None]) -> str:
    tell("Choosing a start token (once)", 0.0)
    table, file = measured(model, tokenizer), _file_of(fingerprint)
    token = best(table)
    try:
        with replacing(file) as part:
            part.write_text(json.dumps({"token": token, "measured": [asdict(row) for row in table]}), encoding="utf-8")
    except OSError as error:
        log.warning("The start token cannot be written to %s (%s); it is measured again next time.", file, error)
    return token


def best(table: Sequence[Measured]) -> str:
    """The token to use, or "none" if no token helps enough.

    Args:
        table: from `measured`; the first row is without a token.
    """
    bare = table[0]
    floor = torch.tensor(LEAST_PROBABILITY).log().item()
    fit = [
        row
        for row in table[1:]
        if row.first >= max(bare.first + LEAST_GAIN, floor) and row.others >= bare.others - MOST_LOSS
    ]
    return max(fit, key=lambda row: row.first).token if fit else NONE


@torch.no_grad()
def measured(model: nn.Module, tokenizer) -> list[Measured]:
    """How well the model knows well-known facts with nothing in front, and with each of its tokenizer's named tokens.

    Args:
        model: a causal language model whose tokenizer puts nothing in front.
        tokenizer: its own.
    """
    n_rows = model.get_input_embeddings().weight.shape[0]
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token)
    tokens = [token for token in dict.fromkeys(named) if token and tokenizer.convert_tokens_to_ids(token) < n_rows]
    rows = []
    for token in ("", *tokens):
        front = [tokenizer.convert_tokens_to_ids(token)] if token else []
        values = _log_probabilities(model, tokenizer, front, (*FIRST_TOKEN_FACTS, *OTHER_FACTS))
        first, others = values[: len(FIRST_TOKEN_FACTS)], values[len(FIRST_TOKEN_FACTS) :]
        rows.append(Measured(token, float(first.mean()), float(others.mean())))
    return rows


def _log_probabilities(model: nn.Module, tokenizer, front: list[int], facts: Sequence[tuple[str, str]]) -> torch.Tensor:
    """The mean log-probability of each fact's answer tokens, (n_facts,) float32 on the CPU."""
    device = model.get_input_embeddings().weight.device
    device = torch.device("cuda", 0) if device.type == "meta" and torch.cuda.is_available() else device
    rows, starts = [], []
    for prompt, answer in facts:
        before, whole = tokenizer(prompt)["input_ids"], tokenizer(joined(prompt, answer))["input_ids"]
        same = next((i for i, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]), len(before))
        rows.append([*front, *whole])
        starts.append(len(front) + same)
    length = max(map(len, rows))
    ids = torch.tensor([row + row[-1:] * (length - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
    log_probs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1).cpu()
    ids = ids.cpu()
    return torch.stack(
        [
            log_probs[number, start - 1 : len(row) - 1].gather(1, ids[number, start : len(row), None]).mean()
            for number, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]
    )
