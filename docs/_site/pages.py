"""What the site has beside docs/: files of the repository that pages link to, and every command's own help."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ELSEWHERE = "files"  # the site's folder for files that are not in docs/
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "benchmarks/RESULTS.md")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    waiting, known = [*ALWAYS], set[str]()
    for file in list(files.documentation_pages()):
        waiting += _linked(Path("docs") / file.src_uri, file.content_string)
    while waiting:
        path = waiting.pop()
        if path in known or path.startswith("docs/") or not (ROOT / path).is_file():
            continue
        known.add(path)
        if path.endswith(".md"):
            waiting += _linked(Path(path), (ROOT / path).read_text(encoding="utf-8"))
        files.append(_file(path, config))
    for name, text in _commands():
        files.append(File.generated(config, f"reference/commands/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages."""
    here = Path(page.file.src_uri)
    mine = here.relative_to(ELSEWHERE) if here.parts[0] == ELSEWHERE else Path("docs") / here

    def target(link: re.Match[str]) -> str:
        path = _path(mine, link[1])
        there = path.removeprefix("docs/") if path.startswith("docs/") else _uri(path)
        return f"]({os.path.relpath(there, here.parent)}" if files.get_file_from_path(there) else link[0]

    return LINK.sub(target, markdown)


def _linked(page: Path, text: str) -> list[str]:
    return [_path(page, target) for target in LINK.findall(text)]


def _path(page: Path, target: str) -> str:
    return os.path.normpath(page.parent / target)


def _uri(path: str) -> str:
    return f"{ELSEWHERE}/{path}" if path.endswith((".md", ".ipynb")) else f"{ELSEWHERE}/{path}.md"


def _file(path: str, config: MkDocsConfig) -> File:
    text = (ROOT / path).read_text(encoding="utf-8")
    if not path.endswith((".md", ".ipynb")):
        language = "python" if path.endswith(".py") else "text"
        text = f"# {Path(path).name}\n\n```{language}\n{text}\n```\n"
    return File.generated(config, _uri(path), content=text)


def _commands() -> list[tuple[str, str]]:
    """A page of each command, by the words that its --help prints."""
    from jaxpaint.cli.parsing import parser

    os.environ["COLUMNS"] = "80"
    whole = parser(filled=True)
    (own,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    pages = [("index", _help("jaxpaint", whole))]
    return pages + [(name, _help(f"jaxpaint {name}", command)) for name, command in own.choices.items()]


def _help(title: str, of: argparse.ArgumentParser) -> str:
    return f"# {title}\n\n```text\n{of.format_help()}```\n"
