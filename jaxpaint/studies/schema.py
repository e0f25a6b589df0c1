"""The JSON schema of a study's settings files, for editors: made of the settings as they are declared, and no more."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from typing_extensions import TypedDict

from jaxpaint.studies.settings import OF_FILES, ONE_OR_SEVERAL, Setting
from jaxpaint.studies.written_settings import EXAMPLES, HEAD

SCHEMA = "jaxpaint.schema.json"
"""Its name beside settings files, which `jaxpaint init` looks for."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = TypedDict(
    "Schema",
    {
        "$schema": str,
        "title": str,
        "description": str,
        "type": str,
        "properties": dict[str, Any],
        "additionalProperties": bool,
        "not": dict[str, Any],
    },
)


def schema_of_files() -> Schema:
    """Of a whole file. It takes what `jaxpaint study` takes, but says nothing of settings that need each other."""
    return {
        "$schema": DIALECT,
        "title": "Settings of a study",
        "description": HEAD,
        "type": "object",
        "properties": {name: _schema(setting) for name, setting in OF_FILES.items()},
        "additionalProperties": False,
        "not": {"required": list(ONE_OR_SEVERAL)},
    }


def _schema(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {"description": setting.help, **setting.kind.schema}
    default = setting.default
    if isinstance(default, bool) or (default not in (None, MISSING, ()) and setting.name not in EXAMPLES):
        found["default"] = list(default) if isinstance(default, tuple) else default
    if setting.name in EXAMPLES:
        found["examples"] = [EXAMPLES[setting.name]]
    return found
