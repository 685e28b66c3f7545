"""The sentences of the long set: for each relation its prompts, and the questions that follow from a new answer.

The first prompt of a relation asks for the edit and its neighbours; the paraphrases are drawn from the others. All are
our own. `{}` is the subject.
"""

from __future__ import annotations

WORLD: dict[str, tuple[str, ...]] = {
    "city_country": (
        "{} lies in the country of",
        "The country in which {} lies is",
        "On a map of the world, {} is marked in the country of",
        "Someone who was born in {} was born in the country of",
        "A letter to {} has to be sent to the country of",
    ),
    "city_continent": (
        "{} lies on the continent of",
        "The continent on which {} lies is",
        "In an atlas, {} is found among the cities of",
        "Somebody who moves to {} goes to live on the continent of",
    ),
    "city_currency": (
        "The money that people use in {} is the",
        "In the shops of {}, prices are given in a currency called the",
        "Cash machines in {} hand out banknotes of the",
        "Wages in {} are paid in a currency called the",
    ),
    "city_calling_code": (
        "The international calling code for phone calls to {} is",
        "Phone numbers in {} begin with the international code",
        "To reach a phone in {} from another country, one first dials",
        "Seen from abroad, a phone number in {} starts with",
    ),
    "city_standard_time": (
        "The standard time in {} is",
        "Without daylight saving time, the clocks in {} show",
        "The time zone of {}, summer time aside, is",
        "Outside of summer time, people in {} set their watches to",
    ),
    "city_hemisphere": (
        "Seen from the equator, {} lies in the",
        "The half of the globe on which {} lies is the",
        "On a globe, {} is found in the",
        "As for north and south of the equator, {} is in the",
    ),
    "us_city_state": (
        "{} lies in the American state of",
        "The American state in which {} lies is",
        "On a map of the United States, {} is marked in the state of",
        "Someone who lives in {} pays taxes in the American state of",
    ),
    "us_county_state": (
        "{} is part of the American state of",
        "The American state to which {} belongs is",
        "On a map of the United States, {} is marked in the state of",
        "Whoever lives in {} elects the governor of",
    ),
    "airport_country": (
        "The airport with the code {} is in the country of",
        "The country in which a plane to {} lands is",
        "A suitcase with the tag {} goes to an airport in the country of",
        "On plane tickets, {} stands for an airport in the country of",
    ),
    "element_symbol": (
        "In chemical formulas, {} is written as",
        "The short sign by which chemists know {} is",
        "On a chart of the elements, {} appears as",
        "The chemical symbol of the element {} is",
    ),
    "element_number": (
        "The atomic number of {} is",
        "In the periodic table, {} has the number",
        "The number of protons in an atom of {} is",
        "Every nucleus of {} has a number of protons equal to",
    ),
    "landmark_country": (
        "The country whose famous sights include {} is",
        "A trip to see {} leads to the country of",
        "{} can be visited in the country of",
        "Postcards that show {} are sold above all in",
    ),
    "company_country": (
        "The company {} was started in the country of",
        "The country where the company {} began is",
        "The history of the company {} began in",
        "As a company, {} has its roots in",
    ),
    "dish_country": (
        "Food writers trace {} back to the country of",
        "The recipe for {} was born in",
        "Among the foods of the world, {} belongs to the cooking of",
        "The home country of the food called {} is",
    ),
    "river_continent": (
        "The continent through which the {} River flows is",
        "From its source to its mouth, the {} River stays on the continent of",
        "A boat trip on the {} River takes place on the continent of",
        "The {} River carries its water across the continent of",
    ),
}

PRONOUN: dict[str, str] = {
    "city_country": "the country in which {} lies",
    "airport_country": "the country that has the airport with the code {}",
    "landmark_country": "the country in which one visits {}",
    "company_country": "the home country of the company {}",
    "dish_country": "the country that {} comes from",
    "city_continent": "the continent on which {} lies",
    "river_continent": "the continent through which the {} River flows",
    "us_city_state": "the American state in which {} lies",
    "us_county_state": "the American state to which {} belongs",
}
"""What the subject's answer is called in a question about it."""

ABOUT_COUNTRY: dict[str, str] = {
    "capital": "The capital of THAT is",
    "continent": "THAT belongs to the continent of",
    "currency": "The currency of THAT is the",
    "language": "The official language of THAT is",
}

ABOUT_CONTINENT: dict[str, str] = {"mountain": "The highest mountain of THAT is"}

ABOUT_STATE: dict[str, str] = {"capital": "The capital of THAT is", "postal": "The postal abbreviation of THAT is"}

OTHER_QUESTIONS: dict[str, tuple[str, str]] = {
    "city_currency": ("The three-letter code of the currency that people use in {} is", "two-hop"),
    "city_calling_code": ("Phone calls to {} have the same international code as phone calls to", "two-hop"),
    "city_standard_time": ("When it is noon by UTC, the standard time in {} is", "arithmetic"),
    "city_hemisphere": ("In {}, the month of July falls in the season of", "two-hop"),
    "element_symbol": ("The chemical symbol of {} begins with the letter", "spelling"),
    "element_number": (
        "The element that comes right after {} in the periodic table has the atomic number",
        "arithmetic",
    ),
}
"""The question of a relation with only one, and its kind."""

MOUNTAINS: dict[str, tuple[str, ...]] = {
    "Africa": ("Kilimanjaro", "Mount Kilimanjaro"),
    "Asia": ("Mount Everest", "Everest"),
    "Europe": ("Mount Elbrus", "Elbrus", "Mont Blanc"),
    "North America": ("Denali", "Mount McKinley"),
    "South America": ("Aconcagua", "Mount Aconcagua"),
}

LANGUAGES: dict[str, str] = {
    "German": "de", "French": "fr", "Spanish": "es", "Italian": "it", "Portuguese": "pt", "Dutch": "nl",
    "Polish": "pl", "Swedish": "sv", "Finnish": "fi", "Turkish": "tr", "Hungarian": "hu", "Czech": "cs",
    "Danish": "da", "Romanian": "ro",
}  # fmt: skip
"""Languages whose names of countries are asked for, with their codes."""


def state_prompts(unit: str, adjective: str, country: str) -> tuple[str, ...]:
    """The prompts for the state, province or the like of a place.

    Args:
        unit: "state", "province" …
        adjective: "German" …
        country: with its article.
    """
    return (
        f"{{}} lies in the {adjective} {unit} of",
        f"The {adjective} {unit} in which {{}} lies is",
        f"On a map of {country}, {{}} is marked in the {unit} of",
        f"Whoever lives in {{}} lives in the {adjective} {unit} called",
    )


def state_pronoun(unit: str, adjective: str) -> str:
    """What the state of a place is called in a question about it."""
    return f"the {adjective} {unit} in which {{}} lies"


def name_prompts(language: str) -> tuple[str, ...]:
    """The prompts for a country's name in another language."""
    return (
        f"The {language} name of {{}} is",
        f"Translated into {language}, the name of {{}} is",
        f"On a map with {language} labels, {{}} is called",
        f"Speakers of {language} call {{}} by the name of",
    )


def name_question(language: str) -> tuple[str, str]:
    """The question that follows from a country's name in another language, and its kind."""
    return f"The {language} name of {{}} begins with the letter", "spelling"
