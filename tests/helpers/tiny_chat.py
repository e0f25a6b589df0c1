"""A tiny random model that chats: `make_folder`'s with a chat template, and room for a conversation."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer

from tests.helpers.tiny_folder import make_folder

MAX_LENGTH = 512
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As some have it: the system has no turn.
WITHOUT_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + TEMPLATE


def make_chat_folder(folder: Path, template: str | dict[str, str] | None = TEMPLATE, **generation: object) -> Path:
    """With these generation settings beside what transformers writes."""
    make_folder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    for name, changes in (
        ("config.json", {"max_position_embeddings": MAX_LENGTH}),
        ("generation_config.json", generation),
    ):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **changes}))
    return folder
