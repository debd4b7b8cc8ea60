"""Directives and roles for docutils: those of Sphinx, and one that keeps the content of any unknown name.

docutils drops what it does not know, together with the content. So the names in a text are looked up before it is
parsed, and a name that docutils cannot resolve is registered with a directive (or role) that keeps argument and
content. A name that is found only in a code example does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from docutils import nodes, utils
from docutils.parsers.rst import Directive, directives, roles
from docutils.parsers.rst.languages import en
from docutils.statemachine import StringList

_DIRECTIVE = re.compile(r"^.*?\.\.[ ]+(?:\|[^|\n]+\|[ ]+)?([^\W_]+(?:[-._+:][^\W_]+)*)[ ]?::(?=\s|$)", re.MULTILINE)
_ROLE = re.compile(r"(?<=:)([^\W_]+(?:[-._+:][^\W_]+)*):`|(?<=`:)([^\W_]+(?:[-._+:][^\W_]+)*):")
_TITLE_AND_TARGET = re.compile(r"^(.+?)\s*<([^<>]*)>$", re.DOTALL)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOTES = _words("attention caution danger error hint important note tip warning seealso todo admonition versionnote")
CODE = _words(
    "code code-block sourcecode prompt doctest testcode testoutput testsetup testcleanup productionlist graphviz "
    "digraph graph mermaid uml plantuml plot ipython jupyter-execute console autosummary parsed-code tikz"
)
CHANGES = {
    "versionadded": "Added in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
    "versionremoved": "Removed in version",
    "deprecated-removed": "Deprecated since version",
}
# What a reader of the built page does not see. `include` would read a file, `raw` would pass markup through, and `date`
# would tell the time, so that the same document would give another text later.
HIDDEN = _words(
    "toctree index highlight currentmodule module tabularcolumns sectionauthor codeauthor include raw date meta "
    "contents sectnum section-numbering default-domain"
)
# Options whose value is shown to a reader.
_SHOWN_OPTIONS = ("type", "default", "value", "synopsis", "returns", "rtype")
# Sphinx's builders whose output is not the HTML page that people read.
_OTHER_BUILDERS = _words("latex latexpdf pdf man texinfo epub text gettext xml pseudoxml")
_CODE_ROLES = _words(
    "func function meth method class mod module attr attribute data exc obj const macro member type var option envvar "
    "confval fixture hook globalvar file command program kbd samp makevar regexp token opcode setting keyword "
    "djadmin django-admin any"
)
_CODE_DOMAINS = _words("py c cpp js")
_NUMBER_ROLES = _words("issue issues pr pull pull_request bug gh ticket bpo")


class _AnyOption(dict[str, Callable[[str], Any]]):
    """An option specification that takes every option as it is (docutils looks options up by item)."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Callable[[str], Any]:
        return directives.unchanged


class _Keep(Directive):
    """Keeps argument and content of a directive, whatever they are; the base of the others."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[Any] = _AnyOption()

    def run(self) -> list[nodes.Node]:
        body = [*self._options(), *self._parsed()]
        argument = self._argument()
        if not argument:
            return body
        # One word, or something with brackets, is a name or a signature; several words are a title.
        if len(argument.split()) == 1 or "(" in argument:
            signatures: list[nodes.Node] = []
            for line in argument.split("\n"):
                signatures += [nodes.Text(", ")] if signatures else []
                signatures.append(nodes.literal(line, line.strip()))
            return [nodes.paragraph("", "", *signatures, nodes.Text(":" if body else "")), *body]
        return [nodes.paragraph("", "", *self._inline(argument), nodes.Text(":" if body else "")), *body]

    def _argument(self) -> str:
        # A backslash at the end of a line continues a signature on the next one.
        return re.sub(r"\\\n\s*", " ", self.arguments[0]).strip() if self.arguments else ""

    def _inline(self, text: str) -> list[nodes.Node]:
        parsed, messages = self.state.inline_text(" ".join(text.split()), self.lineno)
        return [*parsed, *messages]

    def _options(self) -> list[nodes.Node]:
        shown = [(name, str(self.options[name])) for name in _SHOWN_OPTIONS if self.options.get(name)]
        return [nodes.paragraph("", "", nodes.Text(f"{name}: "), *self._inline(value)) for name, value in shown]

    def _parsed(self, content: StringList | None = None) -> list[nodes.Node]:
        container = nodes.container()
        self.state.nested_parse(self.content if content is None else content, self.content_offset, container)
        return list(container.children)


class _Note(_Keep):
    def run(self) -> list[nodes.Node]:
        argument = self._argument()
        if self.name == "admonition":
            title, first = self._inline(argument), []
        else:
            names = {"seealso": "See also"}
            title = [nodes.Text(names.get(self.name, self.name.capitalize()))]
            # `.. note:: text` starts its text in the first line, and it may go on right below.
            first = [nodes.paragraph("", "", *self._inline(argument))] if argument else []
        return [nodes.admonition("", nodes.title("", "", *title), *first, *self._parsed())]


class _Change(_Keep):
    def run(self) -> list[nodes.Node]:
        count = 2 if self.name == "deprecated-removed" else 1
        words = self._argument().split(None, count)
        version, text = ", removed in ".join(words[:count]), " ".join(words[count:])
        lead = nodes.Text(f"{CHANGES[self.name]} {version}")
        body = self._parsed()
        if text:
            return [nodes.paragraph("", "", lead, nodes.Text(": "), *self._inline(text)), *body]
        if body and isinstance(body[0], nodes.paragraph):
            return [nodes.paragraph("", "", lead, nodes.Text(": "), *body[0].children), *body[1:]]
        return [nodes.paragraph("", "", lead, nodes.Text(":" if body else "")), *body]


class _Code(_Keep):
    def run(self) -> list[nodes.Node]:
        caption = self.options.get("caption")
        shown: list[nodes.Node] = []
        if caption:
            shown.append(nodes.paragraph("", "", *self._inline(caption), nodes.Text(":")))
        code = "\n".join(self.content)
        if code.strip():
            shown.append(nodes.literal_block(code, code, language=self._argument()))
        return shown


class _LiteralInclude(_Keep):
    """Keeps the name of the other file; its text is not read."""

    def run(self) -> list[nodes.Node]:
        name = self.options.get("caption") or self._argument()
        return [nodes.paragraph("", "", nodes.literal(name, name))] if name else []


class _Only(_Keep):
    def run(self) -> list[nodes.Node]:
        return self._parsed() if _is_for_pages(self._argument()) else []


class _Content(_Keep):
    """Keeps the content; the argument is only a setting."""

    def run(self) -> list[nodes.Node]:
        return self._parsed()


class _Hidden(_Keep):
    def run(self) -> list[nodes.Node]:
        # `.. module::` may hold content; the others' content is a list of files, or is not for readers.
        return self._parsed() if self.name.endswith("module") else []


class _Image(_Keep):
    """Keeps an image's alternative text; docutils' own directive knows fewer options than Sphinx's."""

    def run(self) -> list[nodes.Node]:
        return [nodes.image(self.block_text, uri=self._argument(), alt=self.options.get("alt", ""))]


def register_markup(text: str) -> None:
    """Register with docutils each directive and role of `text` that docutils does not have, or treats differently."""
    for name in set(_DIRECTIVE.findall(text)):
        directive = _directive_for(name.lower())
        if directive:
            directives.register_directive(name.lower(), directive)
    for match in _ROLE.finditer(text):
        name = (match.group(1) or match.group(2)).lower()
        if name not in en.roles or name in ("index", "i"):
            roles.register_local_role(name, _keep_role)  # type: ignore[arg-type]  # the stubs want references


def _directive_for(name: str) -> type[Directive] | None:
    bare = name.rpartition(":")[2]
    for names, directive in (
        (NOTES, _Note),
        (CODE, _Code),
        (CHANGES, _Change),
        (HIDDEN, _Hidden),
        (("literalinclude",), _LiteralInclude),
        (("only",), _Only),
        (("image",), _Image),
        (("ifconfig", "tabs", "tab-set", "grid", "hlist", "glossary", "acks", "flat-table", "rst-class"), _Content),
    ):
        if name in names or (directive is _Hidden and bare in names):
            return directive
    return None if name in en.directives else _Keep


def _is_for_pages(expression: str) -> bool:
    """Whether `.. only::` shows its content to readers of the HTML pages; true when in doubt."""
    if "(" in expression or not expression:
        return True

    def holds(term: str) -> bool:
        words = term.split()
        return (words[-1:] != [] and words[-1] not in _OTHER_BUILDERS) != (words[:1] == ["not"] and len(words) > 1)

    return any(all(holds(term) for term in part.split(" and ")) for part in expression.split(" or "))


def _keep_role(
    name: str,
    rawtext: str,
    text: str,
    lineno: int,
    inliner: Any,
    options: Any = None,
    content: Any = None,
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """A role's text as a reader sees it: the title of `title <target>`, otherwise the target."""
    text = utils.unescape(text)
    domain, _, bare = name.lower().rpartition(":")
    is_code = bare in _CODE_ROLES or domain in _CODE_DOMAINS
    titled = _TITLE_AND_TARGET.match(text)
    if titled and bare not in ("file", "samp", "kbd", "command", "program"):
        text = titled.group(1)
    elif is_code or domain:
        text = text.lstrip("!~")
    if bare in _NUMBER_ROLES and text.isdecimal():
        text = f"#{text}"
    node = nodes.literal(rawtext, text) if is_code else nodes.inline(rawtext, text)
    return [node], []
