"""What stands between a prompt and its answer."""

from __future__ import annotations

import pytest

from encore_core.facts.joining import joined, joint

BLANK = [
    ("The capital of Norway is", "Bergen"),
    ("The capital of Norway is ", "Bergen"),
    ("Q: Where is Oslo? A:", "Norway"),
    ("Столица Норвегии —", "Берген"),  # a dash between words
    ("They call him 'the best'", "player"),
    ('They call him "the best"', "player"),
    ("The dogs'", "kennel"),
    ("L'Italie a pour capitale", "Rome"),
    ("노르웨이의 수도는", "베르겐"),  # Korean parts its words
    ("عاصمة النرويج هي", "بيرغن"),
    ("The Japanese word for capital is", "首都"),
    ("A ticket costs 5 €", "today"),
    ("It was founded in 1905 (by law)", "again"),
    ("The framework is called", ".NET"),
    ("The variable is", "%TEMP%"),
    ("Anna loves the «Opera»", "most"),
    ("Oslo -", "Bergen"),
    ("50 %", "more"),
    ("The « Louvre »", "museum"),
]

NOTHING = [
    ("挪威的首都是", "上海"),
    ("红楼梦的作者是谁？", "鲁迅"),
    ("红楼梦的作者是谁?", "鲁迅"),
    ("答案:", "上海"),
    ("公元2024", "年"),
    ("挪威的首都是「", "上海"),
    ("他说“", "上海"),
    ('他说:"', "上海"),
    ("ノルウェーの首都は", "大阪"),
    ("首都は東京です。", "人口は"),
    ("เมืองหลวงของนอร์เวย์คือ", "เบอร์เกน"),
    ("ນະຄອນຫຼວງຂອງນໍເວແມ່ນ", "ເບີເກນ"),
    ("រដ្ឋធានីន័រវែសគឺ", "ប៊ែរហ្គេន"),
    ("နော်ဝေ၏မြို့တော်မှာ", "ဘာဂင်"),
    ('The capital of Norway is called "', "Bergen"),
    ("The capital of Norway is called '", "Bergen"),
    ("The capital of Norway is called “", "Bergen"),
    ("The capital of Norway is called «", "Bergen"),
    ("The capital of Norway is called `", "Bergen"),
    ('He said "yes" and "', "no"),
    ("The capital of Norway (", "Oslo"),
    ('He said ("', "no"),
    ("The hotline of the museum is 22-", "415960"),
    ("The hotline of the museum is 22–", "415960"),
    ("Their father-in-", "law"),
    ("The site is https://", "example.org"),
    ("Write to info@", "example.org"),
    ("The tag is #", "oslo"),
    ("It costs $", "5"),
    ("It costs €", "5"),
    ("<|im_start|>assistant\n", "Bergen"),
    ("Answer:\t", "Bergen"),
    ("Answer:\r\n", "Bergen"),
    ("Answer:\u00a0", "Bergen"),
    ("挪威的首都是\u3000", "上海"),
    ("This is Norway", "'s capital"),
    ("This is Norway", "’s capital"),
    ("This is Oslo", ", the capital"),
    ("Is this Oslo", "?"),
    ("The capital (Oslo", ") is old"),
    ("Half of it is 50", "% gone"),
]


@pytest.mark.parametrize(("prompt", "answer"), BLANK)
def test_a_blank_where_the_text_wants_one(prompt, answer):
    assert joined(prompt, answer) == f"{prompt.rstrip(' ')} {answer}"


@pytest.mark.parametrize(("prompt", "answer"), NOTHING)
def test_nothing_where_the_text_wants_nothing(prompt, answer):
    assert joined(prompt, answer) == f"{prompt}{answer}"


@pytest.mark.parametrize("join", ["", " "])
@pytest.mark.parametrize(("prompt", "answer"), [BLANK[0], NOTHING[0], ("", "Bergen"), ("Oslo", "")])
def test_a_fact_that_knows_better_says_so(prompt, answer, join):
    assert joint(prompt, answer, join) == join


def test_what_is_not_there_is_not_parted():
    assert joined("", "Bergen") == "Bergen" and joined("Oslo", "") == "Oslo" and joined("  ", " ") == ""
