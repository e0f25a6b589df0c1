"""The options of commands whose files may become a repository on the Hugging Face hub."""

from __future__ import annotations

import argparse

from jaxpaint.base.errors import UserError


def add_push(parser: argparse.ArgumentParser, what: str) -> None:
    hub = parser.add_argument_group("on the Hugging Face hub")
    hub.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help=f"upload {what} to this repository, made if it is not there (default: no)",
    )
    hub.add_argument("--private", action="store_true", help="the repository that is made is private")


def check_push(options: argparse.Namespace) -> None:
    """Before anything is written. Raises UserError for what cannot be uploaded."""
    if options.push_to_hub is not None:
        from convert.uploads import require_uploadable

        require_uploadable(options.push_to_hub)
    elif options.private:
        raise UserError("--private is of the repository that --push-to-hub OWNER/NAME makes, and none is given")
