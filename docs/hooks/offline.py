"""A page that would load anything from elsewhere is refused."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'>\s]*"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\shref=["']?(?:https?:)?//[^"'>\s]*"""
)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Look for what a browser fetches without being asked to."""
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri}: loads {found[0]}; keep a copy in docs/")
    return output
