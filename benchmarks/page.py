"""A page with generated blocks: what stands between two marks is replaced, all else is left.

<!-- bench: NAME -->
what a benchmark printed
<!-- end -->
"""

import re

from fedhw.errors import InputError

MARK = re.compile(r"^<!-- (?:bench: (?P<name>\S+)|end) -->$", re.MULTILINE)


def blocks(page: str) -> dict[str, slice]:
    r"""Return where the blocks of a page are, by name.

    Raises InputError where marks do not come in pairs or a name comes twice.

    >>> page = "a\n<!-- bench: speed -->\n9\n<!-- end -->\n"
    >>> page[blocks(page)["speed"]]
    '9\n'
    """
    found: dict[str, slice] = {}
    name, start = None, 0
    for mark in MARK.finditer(page):
        if (mark["name"] is None) == (name is None):
            line = page.count("\n", 0, mark.start()) + 1
            raise InputError(
                f"page: the mark {mark[0]!r} in line {line} has no partner; let a block begin with "
                "'<!-- bench: NAME -->' and close with '<!-- end -->'"
            )
        if name is not None:
            found[name] = slice(start, mark.start())
            name = None
        elif mark["name"] in found:
            raise InputError(f"page: there are two blocks {mark['name']!r}; rename one")
        else:
            name, start = mark["name"], mark.end() + 1
    if name is not None:
        raise InputError(f"page: the block {name!r} has no end; close it with '<!-- end -->'")
    return found


def replaced(page: str, name: str, content: str) -> str:
    r"""Return the page with this as the content of a block.

    Raises InputError for a name that no block has, and for content with marks in it.

    >>> replaced("<!-- bench: speed -->\n\n9\n\n<!-- end -->\n", "speed", "10\n")
    '<!-- bench: speed -->\n\n10\n\n<!-- end -->\n'
    """
    places = blocks(page)
    if name not in places:
        raise InputError(
            f"name: {name!r} is no block of the page; it has {', '.join(sorted(places))}"
        )
    if MARK.search(content):
        raise InputError(f"content: that of {name!r} has a mark in it; print tables alone")
    before, after = page[: places[name].start], page[places[name].stop :]
    return "\n\n".join([before.rstrip("\n"), content.strip("\n"), after])
