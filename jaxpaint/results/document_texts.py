"""What people see of a document: its question and the right answer, short. Every function here runs inside its caller's
transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from jaxpaint.base.shown import visible
from jaxpaint.results import checksums
from jaxpaint.results.schema import has_table

QUESTION, ANSWER = 300, 120  # characters that are kept of one
BEGINNING = 1 / 3  # of them; the rest are of the end, where a prompt asks and a solution concludes
LEFT_OUT = " … "


class DocumentText(NamedTuple):
    """A document's question as its task's prompt has it, and the right answer."""

    question: str
    answer: str


def shortened(text: str, most: int) -> str:
    """A text without the space around it and in at most `most` characters: its beginning and its end.

    Characters that a terminal would obey are written as in Python, lone surrogates too, which no file takes.
    """
    text = visible(text.strip())
    if len(text) <= most:
        return text
    first = round(BEGINNING * (most - len(LEFT_OUT)))
    return text[:first].rstrip() + LEFT_OUT + text[len(text) - (most - len(LEFT_OUT) - first) :].lstrip()


def without_text(connection: sqlite3.Connection, task: int, documents: Collection[int]) -> list[int]:
    """Those of a task's documents that have none yet, ascending."""
    query = "SELECT value FROM json_each(?) EXCEPT SELECT document FROM document_texts WHERE task = ? ORDER BY 1"
    wanted = json.dumps([int(document) for document in documents])
    return [document for (document,) in connection.execute(query, (wanted, task))]


def add(connection: sqlite3.Connection, task: int, texts: Iterable[tuple[int, DocumentText]]) -> None:
    """Keeps documents' texts, shortened; those that are there stay."""
    added = connection.executemany(
        "INSERT OR IGNORE INTO document_texts (task, document, question, answer) VALUES (?, ?, ?, ?)",
        (
            (task, int(document), shortened(text.question, QUESTION), shortened(text.answer, ANSWER))
            for document, text in texts
        ),
    )
    if added.rowcount > 0:
        checksums.seal(connection, "document_texts", [task])


def stored(connection: sqlite3.Connection, task: int) -> Mapping[int, DocumentText]:
    """A task's, by document; none in an older store, or where studies kept none."""
    if not has_table(connection, "document_texts"):
        return {}
    rows = connection.execute("SELECT document, question, answer FROM document_texts WHERE task = ?", (task,))
    return {document: DocumentText(question, answer) for document, question, answer in rows}
