"""A checkpoint's chat template, which turns a conversation into a prompt: in transformers' sandbox, as lm-eval does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxpaint.base.errors import UserError, first_line


def chosen_template(tokenizer: Any, asked: bool | str) -> str | None:
    """The text of the template asked for: the tokenizer's only or default one (True), or one of several by its name.

    A name is of no account where there is a single template, as with lm-eval. None where none is asked for.

    Raises:
        UserError: the tokenizer has no chat template, none of that name, or several and no default.
    """
    if not asked:
        return None
    templates = getattr(tokenizer, "chat_template", None)
    if not templates:
        raise UserError(
            "--apply-chat-template: this checkpoint's tokenizer has no chat template; it is not one that chats, or its "
            "chat_template.jinja was left behind"
        )
    if isinstance(templates, str):
        return templates
    name = asked if isinstance(asked, str) else "default"
    if name not in templates:
        known = ", ".join(sorted(templates))
        raise UserError(f"--apply-chat-template: this checkpoint has no chat template {name!r}; it has {known}")
    return templates[name]


def rendered(tokenizer: Any, template: str, turns: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """A conversation as text, as `HFLM.apply_chat_template` of lm-eval 0.4.13 does.

    Without a generation prompt the last turn is left open. A template that refuses the system's turn is given the
    others. Raises UserError where the template fails all the same.
    """
    from jinja2 import TemplateError

    how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
    try:
        try:
            return tokenizer.apply_chat_template(list(turns), chat_template=template, tokenize=False, **how)
        except TemplateError:
            others = [turn for turn in turns if turn["role"] != "system"]
            return tokenizer.apply_chat_template(others, chat_template=template, tokenize=False, **how)
    except RecursionError:
        raise UserError("this checkpoint's chat template is nested too deeply") from None
    except Exception as error:  # templates are programs: any type may come
        raise UserError(
            f"this checkpoint's chat template fails: {type(error).__name__}: {first_line(error)}"
        ) from error
