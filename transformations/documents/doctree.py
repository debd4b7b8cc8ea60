"""A docutils document tree in, Markdown out, made for reading and for chunking, not for typesetting.

Every text that a reader of the page sees is kept; comments, targets and docutils' own messages are dropped. A link is
its text, an image its alternative text. Each paragraph is one line, so that a source with other line breaks gives the
same Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from docutils import nodes

from transformations.documents.plain import escape_block_start, escape_inline
from transformations.documents.table import table_of
from transformations.text.blocks import fence_around, fenced

_MAX_HEADING = 6
_MAX_REPEATED = 200_000
_DROPPED = (
    nodes.comment,
    nodes.target,
    nodes.substitution_definition,
    nodes.pending,
    nodes.decoration,
    nodes.meta,
    nodes.raw,
    nodes.transition,
)
_UNSEEN = (*_DROPPED, nodes.system_message)
# From this level on, a message of docutils holds source that is in no other node ("Error in directive").
_LOST_SOURCE_LEVEL = 3
_FILE_METADATA = frozenset(("orphan", "tocdepth", "nocomments", "nosearch", "no-search"))


def render_document(document: nodes.document) -> str:
    """Return the Markdown of a whole document.

    Raises:
        RecursionError: the tree nests some hundred levels deep.
    """
    children = list(document.children)
    first = next((child for child in children if not isinstance(child, _DROPPED)), None)
    if isinstance(first, nodes.field_list):  # Sphinx: metadata of the file, as `:orphan:`
        for field in list(first.children):
            if field.children[0].astext() in _FILE_METADATA:
                first.remove(field)
    return render_blocks(children)


def render_blocks(blocks: Iterable[nodes.Node]) -> str:
    """Return the Markdown of blocks that stand side by side; a title may bring its own `level`."""
    return "\n\n".join(_blocks(blocks, 0))


def _blocks(children: Iterable[nodes.Node], depth: int) -> list[str]:
    """The blocks of some siblings, `depth` sections deep; inline siblings together make a paragraph."""
    blocks: list[str] = []
    pending: list[nodes.Node] = []
    for child in children:
        if isinstance(child, nodes.Text | nodes.Inline) and not isinstance(
            child, nodes.image | nodes.target | nodes.raw
        ):
            pending.append(child)
            continue
        blocks += _paragraph(_inline(pending))
        pending = []
        blocks += _block(child, depth)
    return blocks + _paragraph(_inline(pending))


def _block(node: nodes.Node, depth: int) -> list[str]:
    if isinstance(node, _DROPPED):
        return []
    if isinstance(node, nodes.section):
        return _blocks(node.children, depth + 1)
    renderer = _RENDERERS.get(type(node).__name__)
    if renderer:
        return renderer(node)
    if isinstance(node, nodes.title):
        title = _inline(node.children)
        level = node.get("level") or min(max(depth, 1), _MAX_HEADING)
        return [f"{'#' * level} {title}"] if title else []
    if isinstance(node, nodes.Admonition) and isinstance(node, nodes.Element):  # note, warning, … of docutils itself
        return _admonition(node)
    if isinstance(node, nodes.TextElement):
        return _paragraph(_inline(node.children))
    return _blocks(node.children, depth)


def _paragraph(text: str) -> list[str]:
    return [escape_block_start(text)] if text else []


def _inline(children: Iterable[nodes.Node]) -> str:
    """The text of inline nodes on one line."""
    return " ".join("".join(map(_span, children)).split())


def _span(node: nodes.Node) -> str:
    if isinstance(node, nodes.Text):
        return escape_inline(node.astext())
    if isinstance(node, nodes.literal | nodes.math):
        return _code_span(node.astext())
    if isinstance(node, nodes.image):
        return escape_inline(node.get("alt", ""))
    if isinstance(node, nodes.footnote_reference | nodes.citation_reference):
        return f"[{node.astext()}]"
    if isinstance(node, _UNSEEN):
        return ""
    text = "".join(map(_span, node.children))
    mark = "**" if isinstance(node, nodes.strong) else "*" if isinstance(node, nodes.emphasis) else ""
    # With blanks inside the marks, Markdown would read the marks as characters.
    return (
        f"{text[: len(text) - len(text.lstrip())]}{mark}{text.strip()}{mark}{text[len(text.rstrip()) :]}"
        if text.strip()
        else text
    )


def _code_span(code: str) -> str:
    code = " ".join(code.split())
    if not code:
        return ""
    fence = fence_around(code, at_least=1)
    pad = " " if len(fence) > 1 and (code[0] == "`" or code[-1] == "`") else ""
    return f"{fence}{pad}{code}{pad}{fence}"


def _fenced(node: nodes.Element) -> list[str]:
    code = node.astext()
    classes: list[str] = node.get("classes", [])
    language = node.get("language") or next((name for name in classes if name not in ("code", "literal-block")), "")
    if isinstance(node, nodes.doctest_block):
        language = "pycon"
    elif isinstance(node, nodes.math_block):
        language = "math"
    info = "".join(language.split()[:1]).replace("`", "")
    return [fenced(code.strip("\n"), info)] if code.strip() else []


def _quoted(blocks: list[str]) -> list[str]:
    quoted = "\n".join(f"> {line}".rstrip() for line in "\n\n".join(blocks).split("\n"))
    return [quoted] if blocks else []


def _block_quote(node: nodes.Element) -> list[str]:
    blocks = _blocks(node.children, 1)
    # rST calls code with a little indentation a quotation; a reader sees code.
    return blocks if all(isinstance(child, nodes.literal_block) for child in node.children) else _quoted(blocks)


def _admonition(node: nodes.Element) -> list[str]:
    children = list(node.children)
    title = type(node).__name__.capitalize()
    if children and isinstance(children[0], nodes.title):
        title = _inline(children.pop(0).children)
    body = _blocks(children, 1)
    if children and isinstance(children[0], nodes.paragraph):
        body[:1] = [f"**{title}:** {body[0]}"]
    else:
        body.insert(0, f"**{title}:**")
    return _quoted(body)


def _titled(node: nodes.Element) -> list[str]:
    """A topic or a sidebar; a table of contents is neither."""
    if "contents" in node.get("classes", ()):
        return []
    children = list(node.children)
    if not children or not isinstance(children[0], nodes.title):
        return _blocks(children, 1)
    return [f"**{_inline(children[0].children)}**", *_blocks(children[1:], 1)]


def _items(items: Iterable[tuple[str, list[str]]]) -> list[str]:
    """A list from markers and blocks; with blank lines between the items if one has several blocks."""
    rendered: list[str] = []
    is_loose = False
    for marker, blocks in items:
        is_loose = is_loose or len(blocks) > 1
        pad = " " * (len(marker) + 1)
        lines = "\n\n".join(blocks).split("\n")
        rendered.append(f"{marker} " + "\n".join([lines[0], *(pad + line if line else "" for line in lines[1:])]))
    return [("\n\n" if is_loose else "\n").join(rendered)] if rendered else []


def _bullets(node: nodes.Element) -> list[str]:
    return _items(("-", _blocks(item.children, 1)) for item in node.children if item.astext().strip())


def _numbered(node: nodes.Element) -> list[str]:
    start = node.get("start", 1)
    return _items((f"{start + i}.", _blocks(item.children, 1)) for i, item in enumerate(node.children))


def _led(lead: str, blocks: list[str], *, is_text_first: bool) -> list[str]:
    """`lead: text` as the first block, or `lead:` alone if what follows is no paragraph."""
    if not blocks or not lead:
        return [lead] if lead else blocks
    return [f"{lead}: {blocks[0]}", *blocks[1:]] if is_text_first else [f"{lead}:", *blocks]


def _defined(node: nodes.Element) -> tuple[str, list[str]]:
    """A definition, field or option as a list item: first what is defined, then its text."""
    leads: list[str] = []
    body: list[nodes.Node] = []
    for child in node.children:
        if isinstance(child, nodes.term | nodes.field_name):
            leads.append(_inline(child.children))
        elif isinstance(child, nodes.classifier):
            leads.append(f"({_inline(child.children)})")
        elif isinstance(child, nodes.option_group):
            leads.append(", ".join(_code_span(option.astext()) for option in child.children))
        else:
            body += child.children
    is_text_first = bool(body) and isinstance(body[0], nodes.paragraph)
    return "-", _led(" ".join(leads), _blocks(body, 1), is_text_first=is_text_first)


def _definitions(node: nodes.Element) -> list[str]:
    return _items(_defined(item) for item in node.children if isinstance(item, nodes.Element))


def _footnote(node: nodes.Element) -> list[str]:
    label = node.children[0].astext() if node.children and isinstance(node.children[0], nodes.label) else ""
    blocks = _blocks(node.children[1 if label else 0 :], 1)
    return [f"[{label}] {blocks[0]}", *blocks[1:]] if label and blocks else blocks


def _lines(node: nodes.Element) -> list[str]:
    """A line block: every line ends in a hard break."""
    lines = [
        line
        for child in node.children
        for line in (_lines(child) if isinstance(child, nodes.line_block) else _line(child))
    ]
    return ["\\\n".join(lines)] if lines else []


def _line(node: nodes.Node) -> list[str]:
    return _paragraph(_inline(node.children))


def _image(node: nodes.Element) -> list[str]:
    return _paragraph(escape_inline(" ".join(node.get("alt", "").split())))


def _message(node: nodes.Element) -> list[str]:
    """The source that docutils could not read, out of its message; the message itself is dropped."""
    if node.get("level", 0) < _LOST_SOURCE_LEVEL:
        return []
    return [block for child in node.children if isinstance(child, nodes.literal_block) for block in _fenced(child)]


def _flat(node: nodes.Node) -> str:
    """The content of a table's cell on one line."""
    if isinstance(node, nodes.literal_block | nodes.doctest_block):
        return _code_span(node.astext())
    if isinstance(node, _UNSEEN):
        return ""
    if isinstance(node, nodes.TextElement | nodes.Text | nodes.image):
        return _inline([node])
    text = " ".join(filter(None, map(_flat, node.children)))
    return f"- {text}" if isinstance(node, nodes.list_item) else text


def _table(node: nodes.Element) -> list[str]:
    titles = [f"{_inline(child.children)}:" for child in node.children if isinstance(child, nodes.title)]
    blocks = _paragraph(titles[0]) if titles else []
    for group in node.findall(nodes.tgroup):
        heads = [row for part in group.children if isinstance(part, nodes.thead) for row in part.children]
        rows = [row for part in group.children if isinstance(part, nodes.tbody) for row in part.children]
        grid = _grid([*heads, *rows], heads=len(heads))
        width = max((len(cells) for cells in grid), default=0)
        # Markdown has one header row; a header of several rows becomes one, column by column.
        head = [" ".join(dict.fromkeys(filter(None, column))) for column in zip(*grid[: len(heads)], strict=True)]
        blocks.append(table_of(head or [""] * width, grid[len(heads) :]))
        break  # docutils makes one group a table; a table inside a cell is flat text
    return blocks


def _grid(rows: list[nodes.Node], *, heads: int) -> list[list[str]]:
    """The cells of each row; a cell over several rows stands in each of them, a cell over several columns in the first.

    A heading over several columns stands in each of them. A column without any text is dropped. At most 200,000
    characters are repeated: a few bytes of markup can ask for a million cells.
    """
    grid: list[dict[int, str]] = [{} for _ in rows]
    taken: list[set[int]] = [set() for _ in rows]
    spare = _MAX_REPEATED
    for i, row in enumerate(rows):
        column = 0
        for entry in row.children:
            if not isinstance(entry, nodes.entry):
                continue
            while column in taken[i]:
                column += 1
            text = _flat(entry).replace("|", "\\|")
            grid[i][column] = text
            right = entry.get("morecols", 0)
            below = min(entry.get("morerows", 0), len(rows) - 1 - i)
            others = [(i, c) for c in range(column + 1, column + 1 + right)] if i < heads else []
            others += [(r, column) for r in range(i + 1, i + 1 + below)]
            for r, c in others:
                spare -= len(text) + 1
                if spare < 0:
                    break
                grid[r][c] = text
            for r in range(i + 1, i + 1 + below):
                spare -= 1 + right
                if spare < 0:
                    break
                taken[r].update(range(column, column + 1 + right))
            column += 1 + right
    columns = sorted({column for cells in grid for column, text in cells.items() if text})
    return [[cells.get(column, "") for column in columns] for cells in grid]


_RENDERERS: dict[str, Callable[..., list[str]]] = {
    "admonition": _admonition,
    "block_quote": _block_quote,
    "bullet_list": _bullets,
    "citation": _footnote,
    "definition_list": _definitions,
    "doctest_block": _fenced,
    "enumerated_list": _numbered,
    "field_list": _definitions,
    "footnote": _footnote,
    "image": _image,
    "line_block": _lines,
    "literal_block": _fenced,
    "math_block": _fenced,
    "option_list": _definitions,
    "sidebar": _titled,
    "system_message": _message,
    "table": _table,
    "topic": _titled,
}
