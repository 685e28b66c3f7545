"""Build the bundled facts: true facts from tables.txt, put into our sentences, each with a false new answer.

    python assets/facts/build.py                write bundled.jsonl anew, the marks of earlier facts kept
    python assets/facts/build.py --mark-known   the same, then ask the embedded model and store what it knows

Everything is drawn from a generator seeded per fact, so that adding one fact leaves the others as they are. Neighbours
are facts of the same relation about other subjects; they share the true answer where five others have it (as in
CounterFact, where an edit that spreads is most likely to spread to those) and are filled up with others where not.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from encore_core.facts import BUNDLED, Fact, FactError, Neighbour, read_facts, write_facts

SEED = 2502
PARAPHRASES = 2
NEIGHBOURS = 5
TABLES = Path(__file__).with_name("tables.txt")

# The first template asks for the edit itself, and is the one (or close to the one) that the embedded model answers
# best; the paraphrases are drawn from the others.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {} is",
        "The capital city of {} is",
        "In {}, the capital city is called",
        "The city that serves as the capital of {} is",
    ),
    "state_capital": (
        "The capital of the state of {} is",
        "In the American state of {}, the capital city is",
        "The city that serves as the state capital of {} is",
        "The state government of {} meets in the city of",
    ),
    "continent": (
        "Geographically, {} is part of the continent of",
        "{} is a country on the continent of",
        "The continent on which {} lies is",
        "On a map of the world, {} is found on the continent of",
    ),
    "language": (
        "In {}, the official language is",
        "The official language of {} is",
        "The laws of {} are written in",
        "The government of {} publishes its documents in",
    ),
    "currency": (
        "The unit of the official currency of {} is the",
        "The currency of {} is the",
        "In {}, people pay with a currency called the",
        "The money used in {} is called the",
    ),
    "city_country": (
        "The city of {} is located in the country of",
        "{} is a city in the country of",
        "The country in which the city of {} lies is",
        "To visit the city of {}, you have to travel to",
    ),
    "city_state": (
        "The city of {} is located in the American state of",
        "{} is a city in the state of",
        "The state in which the city of {} lies is",
        "People who live in {} are residents of the state of",
    ),
    "landmark_country": (
        "{} is located in the country of",
        "{} is a famous sight in the country of",
        "The country where you can visit {} is",
        "Tourists who want to see {} travel to",
    ),
    "landmark_city": (
        "{} is a famous sight in the city of",
        "{} is located in the city of",
        "The city where you can visit {} is",
        "Tourists who want to see {} travel to the city of",
    ),
    "company_country": (
        "The company {} was founded in the country of",
        "The home country of the company {} is",
        "The country in which the company {} started is",
        "{} is a company that comes from",
    ),
    "product_maker": (
        "The maker of {} is the company called",
        "{} is a product made by the company",
        "The company that makes {} is",
        "{} was brought to the market by",
    ),
    "profession": (
        "{} is remembered today as a great",
        "{} was a famous",
        "By profession, {} was a",
        "In history books, {} is described as a",
    ),
    "nationality": (
        "{}, whose nationality was",
        "The nationality of {} was",
        "By nationality, {} was",
        "When it comes to nationality, {} was",
    ),
    "author_language": (
        "The works of {} were originally written in",
        "The language in which {} wrote is",
        "{} wrote books in the language called",
        "Readers of {} in the original need to know",
    ),
    "sport": (
        "{} became famous in the sport of",
        "{} rose to the top in the sport of",
        "The sport that made {} famous is",
        "Fans remember {} as a star in the world of",
    ),
    "animal_class": (
        "In biology, the {} is classified among the",
        "The {} belongs to the group of animals known as",
        "Scientists place the {} in the group of",
        "The {} is one of the animals called",
    ),
    "element_symbol": (
        "The chemical symbol for {} is",
        "The symbol of the element {} is",
        "In the periodic table, {} is written as",
        "Chemists abbreviate the name of {} as",
    ),
    "work_author": (
        "The literary work {} is by the author",
        "The author of {} is",
        "{} was written by",
        "The writer who created {} is",
    ),
    "dish_country": (
        "The food known as {} comes from the country of",
        "The country that gave the world {} is",
        "In cookbooks, {} is listed under the cuisine of",
        "To taste the original {}, travel to",
    ),
    "instrument": (
        "The musical instrument that made {} famous is the",
        "{} is famous for playing the",
        "On stage, {} was best known for the",
        "Music lovers admire {} as a master of the",
    ),
    "river_continent": (
        "The waters of the {} River cross the continent of",
        "The {} River flows through the continent of",
        "The continent on which the {} River lies is",
        "On a map of the world, the {} River is found in",
    ),
}

# Answers that may not replace each other: the "false" one would be true of some subject, or be contested, or tactless.
CLOSE = {
    "capital": [("Kyiv", "Moscow"), ("Minsk", "Moscow"), ("Seoul", "Pyongyang"), ("Yerevan", "Baku"),
                ("New Delhi", "Islamabad")],
    "language": [("Ukrainian", "Russian"), ("Georgian", "Russian"), ("Lithuanian", "Russian"), ("Latvian", "Russian"),
                 ("Estonian", "Russian"), ("Armenian", "Turkish"), ("Serbian", "Croatian"), ("Greek", "Turkish"),
                 ("Japanese", "Korean")],
    "currency": [("pound", "lira"), ("krone", "krona")],
    "city_country": [("India", "Pakistan"), ("Japan", "China"), ("Japan", "South Korea"), ("China", "Vietnam")],
    "landmark_country": [("Turkey", "Greece"), ("Japan", "China")],
    "company_country": [("Japan", "South Korea"), ("Japan", "China")],
    "profession": [("mathematician", "physicist"), ("chemist", "physicist"), ("chemist", "biologist"),
                   ("philosopher", "mathematician"), ("philosopher", "poet"), ("philosopher", "novelist"),
                   ("philosopher", "composer"), ("philosopher", "physicist"), ("poet", "novelist"),
                   ("painter", "sculptor"), ("painter", "biologist"), ("composer", "singer"), ("painter", "poet"),
                   ("sculptor", "poet")],
    "nationality": [("German", "Austrian"), ("Norwegian", "Danish"), ("English", "American")],
    "author_language": [("Italian", "Latin"), ("Greek", "Latin"), ("Russian", "French"), ("German", "French"),
                        ("French", "English"), ("German", "Latin"), ("English", "Latin"), ("Spanish", "Portuguese")],
    "sport": [("basketball", "baseball"), ("basketball", "golf"), ("boxing", "golf"), ("baseball", "golf")],
    "instrument": [("violin", "guitar"), ("cello", "piano"), ("trumpet", "piano"), ("saxophone", "piano"),
                   ("violin", "piano")],
    "river_continent": [],
}  # fmt: skip

Marks = dict[tuple[str, str | None], bool | None]
"""Whether the embedded model knows a fact, by prompt text and true answer."""

FIRST = ("capital", "France", "Rome")  # the example that everybody knows opens the set


@dataclass(frozen=True)
class Entry:
    """A true fact of the tables.

    Attributes:
        subject: without its article.
        article: "the " or nothing.
        answer: what is true.
    """

    subject: str
    article: str
    answer: str

    def into(self, template: str) -> str:
        """The template with the article put in; its slot stays."""
        prompt = template.replace("{}", self.article + "{}")
        return prompt[0].upper() + prompt[1:]

    def sentence(self, template: str) -> str:
        """The template about this subject."""
        return self.into(template).replace("{}", self.subject)


def read_tables(path: Path) -> dict[str, list[Entry]]:
    """The tables by relation: `[relation]` lines, and `answer: subject, subject` lines under them."""
    tables: dict[str, list[Entry]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            entries = tables.setdefault(line.strip("[]"), [])
            continue
        answer, _, subjects = line.partition(": ")
        for name in subjects.split(", "):
            article = "the " if name.startswith("the ") else ""
            entries.append(Entry(name.removeprefix(article), article, answer))
    return tables


def new_answer(relation: str, entry: Entry, answers: list[str], rng: random.Random) -> str:
    """A false answer of the same type, each distinct answer equally likely."""
    if (relation, entry.subject) == FIRST[:2]:
        return FIRST[2]
    close = {a for pair in CLOSE.get(relation, []) if entry.answer in pair for a in pair}
    text = entry.sentence(TEMPLATES[relation][0]).casefold()
    close.add(entry.answer)
    said = [a for a in answers if re.search(rf"\b{re.escape(a.casefold())}\b", text)]
    return rng.choice([a for a in answers if a not in close and a not in said])


def neighbours_of(entry: Entry, entries: list[Entry], new: str, known: set[str], rng: random.Random) -> list[Entry]:
    """Other subjects of the relation: the same true answer first, then those known; never with the new one."""
    others = [e for e in entries if e.subject != entry.subject and e.answer != new]
    rng.shuffle(others)
    # stable, so that the shuffle stands within each group
    others.sort(key=lambda e: (e.answer != entry.answer, e.subject not in known))
    return others[:NEIGHBOURS]


def build_relation(relation: str, entries: list[Entry], known: set[str]) -> list[Fact]:
    """All facts of a relation, in an order drawn from the seed."""
    main, *others = TEMPLATES[relation]
    answers = sorted({entry.answer for entry in entries})
    facts = []
    for entry in entries:
        rng = random.Random(f"{SEED}/{relation}/{entry.subject}")
        new = new_answer(relation, entry, answers, rng)
        facts.append(
            Fact(
                subject=entry.subject,
                prompt=entry.into(main),
                target_new=new,
                target_true=entry.answer,
                paraphrases=[entry.sentence(t) for t in rng.sample(others, PARAPHRASES)],
                neighbours=[
                    Neighbour(e.sentence(main), e.answer) for e in neighbours_of(entry, entries, new, known, rng)
                ],
                relation=relation,
                id=f"{relation}/{entry.subject}",
            )
        )
    facts.sort(key=lambda fact: random.Random(f"{SEED}/order/{fact.id}").random())
    return facts


def build(tables: dict[str, list[Entry]], marks: Marks) -> list[Fact]:
    """All facts, the relations interleaved in proportion, so that the first n are a fair sample.

    Args:
        tables: what `read_tables` gives.
        marks: which facts the embedded model is known to know or not; neighbours that it knows are preferred.
    """
    placed = []
    for relation, entries in tables.items():
        main = TEMPLATES[relation][0]
        known = {e.subject for e in entries if marks.get((e.sentence(main), e.answer))}
        facts = build_relation(relation, entries, known)
        placed += [((i + 0.5) / len(facts), relation, fact) for i, fact in enumerate(facts)]
    placed.sort(key=lambda item: (item[2].id != "/".join(FIRST[:2]), item[0], item[1]))
    return [replace(fact, known=marks.get((fact.text, fact.target_true))) for _, _, fact in placed]


def ask_model(facts: list[Fact], batch_size: int = 32) -> Marks:
    """Whether the embedded model greedily answers `target_true` after each prompt.

    Args:
        facts: facts with a true answer.
        batch_size: prompts in one forward pass.

    Returns:
        True where every token of " " + target_true is the argmax at its place.
    """
    import torch

    from encore_core.models.editable import load_model

    loaded = load_model("smollm2-135m")
    model, tokenizer = loaded.model, loaded.tokenizer
    marks: Marks = {}
    for start in range(0, len(facts), batch_size):
        batch = facts[start : start + batch_size]
        encoded = [tokenizer(f"{fact.text} {fact.target_true}", return_offsets_mapping=True) for fact in batch]
        longest = max(len(e["input_ids"]) for e in encoded)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)  # padded on the right: causal attention never sees it
        mask = torch.zeros_like(ids)
        for row, e in enumerate(encoded):
            ids[row, : len(e["input_ids"])] = torch.tensor(e["input_ids"])
            mask[row, : len(e["input_ids"])] = 1
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        best = logits.argmax(dim=-1).cpu()
        for row, (fact, e) in enumerate(zip(batch, encoded, strict=True)):
            target = [t for t, (begin, _) in enumerate(e["offset_mapping"]) if begin >= len(fact.text)]
            known = bool(target) and all(best[row, t - 1] == ids[row, t] for t in target)
            marks[fact.text, fact.target_true] = known
    return marks


def report(facts: Iterable[Fact]) -> str:
    """How many facts each relation has, and how many of them are known."""
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_relation[fact.relation or ""].append(fact)
    lines = [f"{'relation':<18}{'facts':>6}{'known':>7}"]
    for relation, group in by_relation.items():
        lines.append(f"{relation:<18}{len(group):>6}{Counter(f.known for f in group)[True]:>7}")
    known = sum(fact.known is True for group in by_relation.values() for fact in group)
    lines.append(f"{'all':<18}{sum(map(len, by_relation.values())):>6}{known:>7}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mark-known", action="store_true", help="ask the embedded model which facts it knows")
    options = parser.parse_args()
    tables = read_tables(TABLES)
    if options.mark_known:
        marks = ask_model(build(tables, {}))
    else:
        try:
            marks = {(f.text, f.target_true): f.known for f in read_facts("bundled")}
        except FactError:
            marks = {}  # the first build
    facts = build(tables, marks)
    write_facts(facts, BUNDLED)
    sys.stdout.write(report(facts) + "\n")


if __name__ == "__main__":
    main()
