"""Files of the repository that pages link to are pages of the site, so that links hold in both."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

FOLDER = "repository"
OUTSIDE = re.compile(r"(?<=\]\()(?:\.\./)+([^)#\s]+)(?=[)#])")
"""The target of a link that leaves docs/, and its path from the repository's root."""


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what the pages link to outside docs/."""
    root = Path(config.docs_dir).parent
    pages = files.documentation_pages()
    for path in sorted({path for page in pages for path in OUTSIDE.findall(page.content_string)}):
        if (root / path).is_file():
            files.append(_page(config, root, path))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links lead there; one to a file that there is not stays as it is, and is refused."""

    def inside(link: re.Match[str]) -> str:
        target = _name(link[1])
        if files.get_file_from_path(target) is None:
            return link[0]
        return posixpath.relpath(target, Path(page.file.src_uri).parent)

    return OUTSIDE.sub(inside, markdown)


def _name(path: str) -> str:
    return f"{FOLDER}/{path}" + ("" if path.endswith(".md") else ".md")


def _page(config: MkDocsConfig, root: Path, path: str) -> File:
    text = (root / path).read_text("utf-8")
    if path.endswith(".md"):
        return File.generated(config, _name(path), content=text)
    try:
        language = get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        language = "text"
    content = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language}\n{text}\n````\n"
    inclusion = InclusionLevel.NOT_IN_NAV
    return File.generated(config, _name(path), content=content, inclusion=inclusion)
