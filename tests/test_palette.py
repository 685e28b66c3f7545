"""The table of colours: every colour has one meaning, can be read in both themes, and is not all that tells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dashboard.charts.palette import DARK, DASHES, LIGHT, MEANINGS, Palette
from dashboard.elements import colour_key
from encore_core.methods import METHODS

THEMES = pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
MAIN = ("MEMIT", "EMMET", "AlphaEdit", "ENCORE")
VERDICTS = ("good", "bad", "warn")

# Björn Ottosson, "A perceptual color space for image processing" (2020): linear sRGB → LMS, and its cube root → OKLab.
TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                   [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
TO_OKLAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
# Machado, Oliveira and Fernandes (2009), severity 1, on linear sRGB.
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def distance(one: str, other: str, eyes: str = "all cones") -> float:
    """How different two colours look, 100 between black and white."""
    seen = [TO_OKLAB @ np.cbrt(TO_LMS @ np.clip(EYES[eyes] @ linear(colour), 0, 1)) for colour in (one, other)]
    return 100 * float(np.linalg.norm(seen[0] - seen[1]))


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def meant(palette: Palette) -> list[tuple[str, str]]:
    """Every meaning with each of its colours."""
    named = [(name, getattr(palette, name)) for name in (*MEANINGS, *VERDICTS)]
    layers = [("edited", colour) for colour in palette.layers(5)]
    return [*palette.methods.items(), *named, *layers]


def test_the_measure_of_distance_knows_black_from_white_and_confuses_what_the_colour_blind_confuse():
    assert distance("#000000", "#FFFFFF") == pytest.approx(100, abs=0.01) and distance("#D55E00", "#D55E00") == 0
    # A red and a green that a reader without the middle cones takes for each other, and one with them does not.
    red, green = "#C04040", "#6E7A2E"
    assert distance(red, green) > 15 > 6 > distance(red, green, "deuteranopia")


@THEMES
def test_no_colour_has_two_meanings(palette):
    for (name, colour), (other, second) in itertools.combinations(meant(palette), 2):
        if name == other:
            continue
        # Methods are told apart by their dashes, too; what has no dash must look different.
        least = 6 if {name, other} <= set(METHODS) else 8
        assert distance(colour, second) >= least, (name, other, distance(colour, second))


@THEMES
def test_what_is_compared_is_told_apart_by_colour_blind_readers(palette):
    for one, other in (("new", "true"), ("mpes", "no_mpes")):
        for eyes in EYES:
            assert distance(getattr(palette, one), getattr(palette, other), eyes) >= 15, (one, other, eyes)
    # Four hues cannot all differ for every eye; where two come close, dashes tell them apart.
    for one, other in itertools.combinations(MAIN, 2):
        assert DASHES[one] != DASHES[other]
        assert distance(palette.methods[one], palette.methods[other]) >= 14


@THEMES
def test_text_and_lines_can_be_read(palette):
    for name in ("ink", "muted", "new", "true", *VERDICTS):
        for behind in (palette.page, palette.panel):
            assert contrast(getattr(palette, name), behind) >= 4.5, (name, behind)
    assert contrast("#FFFFFF", palette.action) >= 4.5
    shown = [(name, getattr(palette, name)) for name in (*MEANINGS, "focus")]
    for name, colour in (*shown, *palette.methods.items(), *enumerate(palette.layers(2)[1:])):
        assert contrast(colour, palette.page) >= 3, (name, colour)


@THEMES
def test_ramps_go_one_way(palette):
    for steps in (palette.layers(7), palette.steps(7)):
        against = [contrast(colour, palette.page) for colour in steps]
        assert against == sorted(against) and against[0] < against[-1] / 3


def test_the_table_says_what_every_colour_means_and_by_which_mark_it_is_told_otherwise():
    for name, (means, marks) in MEANINGS.items():
        assert hasattr(LIGHT, name) and means and marks
    assert set(DASHES) == set(METHODS) == set(LIGHT.methods) == set(DARK.methods)


@THEMES
def test_the_key_in_the_sidebar_names_every_meaning_in_its_colour(palette):
    key = colour_key.markup(palette)
    for name in colour_key.MAIN:
        assert f"repeating-linear-gradient(90deg,{palette.methods[name]} 0px" in key and f"<span>{name}</span>" in key
    for name, (means, _) in MEANINGS.items():
        assert f"background:{getattr(palette, name)}" in key and means in key
