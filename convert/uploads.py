"""What was written here, as a repository on the Hugging Face hub: a model, or a study as a dataset.

Tokens are huggingface_hub's to find, and in no message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from convert.hub import is_hub_id, is_network, status_of
from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


def require_uploadable(repository: str) -> None:
    """What can be known before anything is written. Raises UserError for a name that is none, no token, no network."""
    from huggingface_hub import constants, get_token

    if not is_hub_id(repository) or "@" in repository:
        raise UserError(f"--push-to-hub {repository}: give the repository's owner and name, as OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push-to-hub needs the Hugging Face hub, and HF_HUB_OFFLINE=1 keeps away from it; unset it")
    if get_token() is None:
        raise UserError(
            "--push-to-hub needs a token that may write: log in (hf auth login), or set HF_TOKEN to one of yours"
        )


def upload(
    written: Path,
    repository: str,
    *,
    private: bool = False,
    message: str = "jaxpaint export",
    kind: Literal["model", "dataset"] = "model",
    beside: Mapping[str, Path | bytes] | None = None,
) -> str:
    """The address of a repository with the files of a folder, or one file, in one commit; made where there is none.

    `private` is of the one that is made, `beside` are more files, by their names there. Raises UserError for no
    permission or network, or a public repository where a `private` one is wanted.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True, repo_type=kind)
        is_public = private and not api.repo_info(repository, repo_type=kind).private
        if not is_public:
            files = list(_files(written, beside or {}))
            api.create_commit(repository, files, commit_message=message, repo_type=kind)
    except Exception as error:
        raise _not_uploaded(error, repository, written, kind) from None
    if is_public:
        raise UserError(
            f"{repository} is there already, and public: nothing was uploaded. {written} is written; give another "
            "name, make that repository private on the hub, or leave --private away"
        )
    return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}"


def _files(written: Path, beside: Mapping[str, Path | bytes]) -> Iterable[CommitOperationAdd]:
    """Without hidden ones, which are this machine's."""
    from huggingface_hub import CommitOperationAdd

    folder = written if written.is_dir() else written.parent
    found = sorted(written.rglob("*")) if written.is_dir() else [written]
    for file in found:
        name = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            yield CommitOperationAdd(name.as_posix(), file)
    for path, content in beside.items():
        yield CommitOperationAdd(path, content)


def _not_uploaded(error: Exception, repository: str, written: Path, kind: str) -> UserError:
    """What went wrong, for people; the files that were written stay."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    reason = _REFUSED.get(status_of(cause) or 0)
    if reason is None and (is_network(cause) or isinstance(cause, OSError)):
        reason = "the Hugging Face hub cannot be reached, or the connection to it broke"
    reason = reason or f"the Hugging Face hub did not take it ({type(cause).__name__})"
    # Of a dataset there are files beside it, which lie nowhere else.
    again = f"hf upload {repository} {written}" if kind == "model" else "by the same command"
    return UserError(f"{reason.format(repository)}; {written} is written, and can be uploaded later: {again}")


_NO_RIGHTS = "your token may not write to {0}; give one with the permission to write there (hf auth login, HF_TOKEN)"
# By the status of an answer.
_REFUSED = {
    401: "the Hugging Face hub does not accept your token; log in anew (hf auth login), or set HF_TOKEN to a valid one",
    403: _NO_RIGHTS,
    404: _NO_RIGHTS,  # what a token may not see is said not to be there
    429: "the Hugging Face hub had too many requests; wait a few minutes",
}
