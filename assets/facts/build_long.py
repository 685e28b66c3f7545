"""Build the long set: 10,000 and more facts from data packages, put into our sentences, each with a false new answer.

    python assets/facts/build_long.py        write long.jsonl.gz anew; README.md says what to install for it

The files beside this one: `long_sources` gives the true facts by relation, `long_countries` and `long_tables.txt` what
is known about countries and states, `long_sentences` the sentences. Everything is drawn from a generator seeded per
fact, and every question of a fact follows from its new answer by what no other fact of the set changes.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import long_sentences as words
from build import CLOSE, TABLES, Entry, read_tables
from long_countries import Country, States, pairs
from long_sources import NAMES_PER_LANGUAGE, QUOTAS, true_facts, us_states

from encore_core.facts import Fact, Neighbour, Portability
from encore_core.facts.source import LONG

SEED = 10_000
PARAPHRASES = NEIGHBOURS = 2
CLOSE_COUNTRIES = [
    *CLOSE["city_country"], ("Russia", "Ukraine"), ("Armenia", "Azerbaijan"), ("Armenia", "Turkey"),
    ("South Korea", "North Korea"), ("Serbia", "Croatia"), ("Greece", "Turkey"), ("Georgia", "Russia"),
    ("Serbia", "Bosnia and Herzegovina"), ("Iran", "Iraq"), ("Japan", "North Korea"), ("Sudan", "Egypt"),
    ("Latvia", "Russia"), ("Estonia", "Russia"), ("Lithuania", "Russia"), ("Germany", "Poland"), ("Iraq", "Kuwait"),
    ("Rwanda", "the Democratic Republic of the Congo"),
]  # fmt: skip
"""Countries that may not replace each other, because the false answer would be contested or tactless."""

Question = tuple[str, tuple[str, ...], str]
"""A question with the slot, the answers, the kind."""


class Relation:
    """A relation of the set: its true facts, its sentences and what follows from its answers.

    Args:
        name: of the relation.
        entries: the true facts, the best known first.
        countries: by code.
        states: of all countries.
    """

    def __init__(self, name: str, entries: list[Entry], countries: dict[str, Country], states: list[States]):
        self.name = name
        self.countries = {country.name: country for country in countries.values()}
        self.states = next((one for one in states if one.relation == name), None)
        self.prompts = self._prompts(countries)
        self.entries = list(itertools.islice(filter(self._sound, entries), most_of(name)))
        self.by_answer: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            self.by_answer[entry.answer].append(entry)

    def _prompts(self, countries: dict[str, Country]) -> tuple[str, ...]:
        if self.states is not None:
            return words.state_prompts(self.states.unit, self.states.adjective, countries[self.states.country].name)
        if self.name.startswith("name_in_"):
            return words.name_prompts(self._language)
        return words.WORLD[self.name]

    @property
    def _language(self) -> str:
        return self.name.removeprefix("name_in_").capitalize()

    def _sound(self, entry: Entry) -> bool:
        """Whether a fact's sentences have the subject once and never give its answer away."""
        texts = [entry.sentence(prompt) for prompt in self.prompts]
        return all(text.count(entry.subject) == 1 and not said(entry.answer, text) for text in texts)

    def questions(self, answer: str) -> Iterator[Question]:
        """What can be asked about a subject that has an answer of this relation."""
        if self.name.startswith("name_in_"):
            question, kind = words.name_question(self._language)
            yield question, (answer[0],), kind
        elif self.states is not None:
            that = words.state_pronoun(self.states.unit, self.states.adjective)
            yield words.ABOUT_STATE["capital"].replace("THAT", that), (self.states.capitals[answer],), "two-hop"
        elif self.name in words.OTHER_QUESTIONS:
            question, kind = words.OTHER_QUESTIONS[self.name]
            yield question, self._other_answers(answer), kind
        else:
            that = words.PRONOUN[self.name]
            for question, answers in self._about(answer):
                yield question.replace("THAT", that), answers, "two-hop"

    def _about(self, answer: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What is known about a country, a continent or an American state."""
        if self.name.startswith("us_"):
            postal = {name: code for code, name in us_states().items()}
            yield words.ABOUT_STATE["capital"], (CAPITALS[answer],)
            yield words.ABOUT_STATE["postal"], (postal[answer],)
        elif self.name.endswith("_continent"):
            if answer in words.MOUNTAINS:
                yield words.ABOUT_CONTINENT["mountain"], words.MOUNTAINS[answer]
        else:
            country = self.countries[answer]
            for what, question in words.ABOUT_COUNTRY.items():
                known = getattr(country, what)
                if known is not None:
                    yield question, (known,)

    def _other_answers(self, answer: str) -> tuple[str, ...]:
        """The answers to the one question of a relation, see `long_sentences.OTHER_QUESTIONS`."""
        if self.name == "city_currency":
            return tuple(sorted({c.currency_code for c in self.countries.values() if c.currency == answer}))
        if self.name == "city_calling_code":
            return next(c.names for c in self.countries.values() if c.calling_code == answer)
        if self.name == "city_standard_time":
            return at_noon(answer)
        if self.name == "city_hemisphere":
            return ("summer",) if answer.startswith("Northern") else ("winter",)
        return (answer[0],) if self.name == "element_symbol" else (str(int(answer) + 1),)

    def new_answers(self, entry: Entry) -> list[str]:
        """The answers that may replace the true one."""
        mine = entry.subject if self.name.startswith("name_in_") else entry.answer
        close = {country for pair in CLOSE_COUNTRIES if mine in pair for country in pair}
        text = entry.sentence(self.prompts[0])
        return [
            answer
            for answer, others in sorted(self.by_answer.items())
            if answer not in close | {entry.answer}
            and not said(answer, text)
            and not (self.name.startswith("name_in_") and close & {other.subject for other in others})
        ]

    def fact(self, entry: Entry) -> Fact | None:
        """The fact about a subject; None if no question follows from any new answer."""
        rng = random.Random(f"{SEED}/{self.name}/{entry.subject}")
        answers = self.new_answers(entry)
        rng.shuffle(answers)
        before = {(question, known) for question, known, _ in self.questions(entry.answer)}
        for new in answers:
            asked = [
                (entry.sentence(question), known, kind)
                for question, known, kind in self.questions(new)
                if (question, known) not in before
            ]
            asked = [
                q
                for q in asked
                if q[0].count(entry.subject) == 1 and not any(said(a, q[0]) for a in q[1] if len(a) > 2)
            ]
            near = self._neighbours(entry, new, rng)
            if asked and len(near) == NEIGHBOURS:
                main, *others = self.prompts
                return Fact(
                    subject=entry.subject,
                    prompt=entry.into(main),
                    target_new=new,
                    target_true=entry.answer,
                    paraphrases=[entry.sentence(prompt) for prompt in rng.sample(others, PARAPHRASES)],
                    neighbours=[Neighbour(one.sentence(main), one.answer) for one in near],
                    relation=self.name,
                    id=f"{self.name}/{entry.subject}",
                    portability=[Portability(*rng.choice(asked))],
                )
        return None

    def _neighbours(self, entry: Entry, new: str, rng: random.Random) -> list[Entry]:
        """Other subjects, one or two with the same true answer where there are such; never with the new one."""
        main = self.prompts[0]
        same = [one for one in self.by_answer[entry.answer] if entry.subject not in one.sentence(main)]
        others = [one for one in self.entries if one.answer not in (new, entry.answer)]
        others = [one for one in rng.sample(others, min(9, len(others))) if entry.subject not in one.sentence(main)]
        return [*rng.sample(same, min(NEIGHBOURS, len(same))), *others][:NEIGHBOURS]


CAPITALS = {entry.subject: entry.answer for entry in read_tables(TABLES)["state_capital"]} | pairs("state capitals")


def most_of(relation: str) -> int | None:
    """The most facts of a relation; None for no limit."""
    return NAMES_PER_LANGUAGE if relation.startswith("name_in_") else QUOTAS.get(relation)


def said(answer: str, text: str) -> bool:
    """Whether an answer stands in a text as words of its own."""
    return re.search(rf"(?<!\w){re.escape(answer.casefold())}(?!\w)", text.casefold()) is not None


def at_noon(zone: str) -> tuple[str, ...]:
    """The time at noon by UTC in a zone such as "UTC+5:30", in the two usual ways of writing."""
    sign, hours, rest = re.fullmatch(r"UTC([+-])(\d+)(?::(\d+))?", zone).groups()
    off = (int(hours) * 60 + int(rest or 0)) * (-1 if sign == "-" else 1)
    hour, minute = divmod((12 * 60 + off) % (24 * 60), 60)
    twelve = f"{(hour - 1) % 12 + 1}" + (f":{minute:02}" if minute else "")
    words_too = {(0, 0): ("midnight",), (12, 0): ("noon",)}.get((hour, minute), ())
    return f"{hour:02}:{minute:02}", f"{twelve} {'p.m.' if hour >= 12 else 'a.m.'}", *words_too


def build() -> list[Fact]:
    """All facts, the relations interleaved in proportion, each with the best known first."""
    found, countries, states = true_facts()
    placed = []
    for name, entries in found.items():
        if name == "us_county_state":
            entries = sorted(entries, key=lambda entry: random.Random(f"{SEED}/order/{entry.subject}").random())
        relation = Relation(name, entries, countries, states)
        facts = [fact for entry in relation.entries if (fact := relation.fact(entry)) is not None]
        placed += [((place + 0.5) / len(facts), name, fact) for place, fact in enumerate(facts)]
    return [fact for _, _, fact in sorted(placed, key=lambda item: item[:2])]


def write(facts: list[Fact]) -> None:
    """Write the set as packed JSON lines, the same bytes for the same facts."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        for fact in facts:
            line = json.dumps(fact.to_dict(), ensure_ascii=False, separators=(",", ":"))
            stream.write(f"{line}\n".encode())
    LONG.write_bytes(packed.getvalue())


def main() -> None:
    facts = build()
    write(facts)
    for relation, number in Counter(fact.relation for fact in facts).most_common():
        print(f"{relation:<24}{number:>6}")
    print(f"{'all':<24}{len(facts):>6}   {LONG.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
