import re

from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.text.blocks import first_heading, split_blocks
from transformations.text.canonical_text import normalise_text

LINES = st.lists(
    st.sampled_from(
        [
            "",
            "| a | b |",
            "|---|---|",
            "| c | d |",
            "===",
            "<div>",
            "[ref]: http://x",
            "eleven \\",
            "\tt",
            "# one",
            "## two *b*",
            "three four",
            "- five",
            "  - six",
            "1. seven",
            "> eight",
            "```",
            "    nine",
            "ten:",
        ]
    ),
    max_size=25,
)


def test_every_block_carries_its_headings() -> None:
    blocks = split_blocks("intro\n\n# A *b* `c`\n\none\n\n### C\n\ntwo\n\n## B\n\nthree")
    assert [(b.heading_path, b.text) for b in blocks] == [
        ((), "intro"),
        (("A b c",), "one"),
        (("A b c", "C"), "two"),
        (("A b c", "B"), "three"),
    ]
    assert [b.section for b in blocks] == [0, 1, 2, 3]


def test_a_heading_with_nothing_under_it_is_a_block() -> None:
    blocks = split_blocks("# A\n\n## B\n\n## C\n\ntext\n\n# D")
    assert [(b.heading_path, b.text) for b in blocks] == [(("A",), "## B"), (("A", "C"), "text"), ((), "# D")]


def test_list_items_are_blocks_with_what_is_nested_in_them() -> None:
    blocks = split_blocks("- a\n  - b\n\n      code\n- c\n\n7. d\n-\n")
    assert [(b.kind, b.text) for b in blocks] == [
        ("list", "- a\n  - b\n\n      code"),
        ("list", "- c"),
        ("list", "7. d"),
    ]


def test_a_table_row_repeats_the_header() -> None:
    blocks = split_blocks("| a | b |  |\n|---|---|---|\n| 1 \\| 2 | x |\n| 3 |  | y |\n")
    assert [b.text for b in blocks] == ["a: 1 | 2 | b: x", "a: 3 | y"]
    assert {b.kind for b in blocks} == {"table_row"}
    assert [b.text for b in split_blocks("| a | b |\n|---|---|")] == ["a | b"]


def test_code_is_one_block_and_fenced() -> None:
    blocks = split_blocks("```py\n# no heading\n\nx\n```\n\n    indented\n      more\n\ntext")
    assert [(b.kind, b.text) for b in blocks] == [
        ("code", "```py\n# no heading\n\nx\n```"),
        ("code", "```\nindented\n  more\n```"),
        ("paragraph", "text"),
    ]


def test_quotes_html_and_link_definitions_are_not_lost() -> None:
    blocks = split_blocks("> a\n> b\n\n***\n\n<div>\nhi\n</div>\n\n[x]: http://y")
    assert [(b.kind, b.text) for b in blocks] == [
        ("quote", "> a\n> b"),
        ("paragraph", "<div>\nhi\n</div>"),
        ("paragraph", "[x]: http://y"),
    ]


def test_first_heading_is_the_first_with_text() -> None:
    assert first_heading("text\n\n#\n\n## A `b`") == (2, "A b")
    assert first_heading("```\n# a\n```") is None


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_no_word_is_in_no_block(lines: list[str]) -> None:
    text = normalise_text("\n".join(lines))
    blocks = split_blocks(text)
    kept = " ".join([*(b.text for b in blocks), *(title for b in blocks for title in b.heading_path)])
    assert set(re.findall(r"[a-z]{2,}", text)) <= set(re.findall(r"[a-z]{2,}", kept))
