import re

from monosem.report.cells import Row, Table, number, words
from monosem.report.table_formats import as_latex, as_markdown, markdown_table
from monosem.report.wording import points

TABLE = Table(
    "Ours & theirs, 100 %",
    ("ours", "theirs", "note"),
    (
        ("first_group", (Row("10 %", (number(-0.012, points), words(""), words("a_b"))),)),
        ("", (Row("20 %", (number(0.5, points), number(float("nan"), points), words("{x}"))),)),
    ),
    spans=(("SimCLR", 2), ("rest", 1)),
    corner="rate",
)


def test_markdown_tables_are_rectangular():
    assert markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    caption, blank, *lines = as_markdown(TABLE).splitlines()
    assert (caption, blank) == ("Ours & theirs, 100 %", "")
    assert lines == [
        "| rate | SimCLR, ours | SimCLR, theirs | rest, note |",
        "| --- | ---: | ---: | ---: |",
        "| **first_group** |  |  |  |",
        "| 10 % | \N{MINUS SIGN}1.2 |  | a_b |",
        "| 20 % | +50.0 | \N{EN DASH} | {x} |",
    ]


def test_latex_rows_fill_the_columns_and_escape_every_sign():
    text = as_latex(TABLE)
    assert r"\begin{tabular}{lrrr}" in text
    assert r"10 \% & $-$1.2 &  & a\_b \\" in text
    assert r"20 \% & +50.0 & -- & \{x\} \\" in text
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in text
    assert columns_filled(text) == {4}
    comment, rest = re.findall(r"(?m)^%.*$", text), re.sub(r"(?m)^%.*\n", "", text)
    assert len(comment) == 2
    assert not re.search(r"(?<!\\)[%#_]", rest)
    assert rest.isascii()


def columns_filled(latex: str) -> set[int]:
    """How many columns each row of a tabular fills."""
    found = set()
    for line in latex.splitlines():
        if line.endswith(r"\\"):
            cells = re.split(r"(?<!\\)&", line)
            found.add(
                sum(int(m[1]) if (m := re.match(r"\s*\\multicolumn\{(\d+)\}", c)) else 1 for c in cells)
            )
    return found
