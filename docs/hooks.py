"""Adds to the site the files of the checkout, outside docs/, that its pages link to (used by mkdocs.yml).

Links stay as they work in the repository, such as ``../CHANGELOG.md``; on the site they lead to copies in checkout/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+")
FOLDER = "checkout"


def on_files(files: Any, config: Any) -> Any:
    """Add the files that pages link to outside docs/, and those that the added pages link to."""
    from mkdocs.structure.files import File

    docs = Path(config["docs_dir"])
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for target in LINK.findall(Path(page.abs_src_path).read_text()):
            path = _in_checkout(docs, page.src_uri, target)
            uri = _on_the_site(docs, path)
            if (docs.parent / path).is_file() and files.get_file_from_path(uri) is None:
                added = File.generated(config, uri, abs_src_path=str(docs.parent / path))
                files.append(added)
                pages += [added] if uri.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links between docs/ and the rest of the checkout lead to the copies in the site."""
    docs, source = Path(config["docs_dir"]), page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        uri = _on_the_site(docs, _in_checkout(docs, source, match[0]))
        return os.path.relpath(uri, os.path.dirname(source) or ".")

    return LINK.sub(lead, markdown)


def _in_checkout(docs: Path, source: str, target: str) -> str:
    """Return the path in the checkout that a link of the page ``source`` leads to."""
    page = source.removeprefix(f"{FOLDER}/") if source.startswith(f"{FOLDER}/") else f"{docs.name}/{source}"
    return os.path.normpath(os.path.join(os.path.dirname(page), target))


def _on_the_site(docs: Path, path: str) -> str:
    return path.removeprefix(f"{docs.name}/") if path.startswith(f"{docs.name}/") else f"{FOLDER}/{path}"
