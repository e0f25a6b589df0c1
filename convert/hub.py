"""Checkpoints on the Hugging Face hub: only the files that conversion needs, kept in the hub's own cache.

Tokens are huggingface_hub's to find, and in no message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxpaint.base.errors import UserError

TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "preprocessor_config.json",  # how images are read, in the place of a tokenizer
    # Vocabularies of tokenizers without a tokenizer.json: byte-level BPE, WordPiece, SentencePiece.
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
)
# The first that a repository has is taken, with its files of the right-hand side.
WEIGHTS = (
    ("model*.safetensors", ("model*.safetensors", "model.safetensors.index.json")),
    ("pytorch_model*.bin", ("pytorch_model*.bin", "pytorch_model.bin.index.json")),
    ("consolidated.*.pth", ("consolidated.*.pth", "params.json")),
)


_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")


def is_hub_id(model: str) -> bool:
    """`owner/name`, as the hub spells it, or `owner/name@revision`."""
    return _ID.fullmatch(model) is not None


def at_revision(model: str, revision: str | None) -> tuple[str, str | None]:
    """A hub id without its `@revision`, and the revision. Raises UserError for two different ones."""
    found = _ID.fullmatch(model)
    if found is None or found["revision"] is None:
        return model, revision
    if revision not in (None, found["revision"]):
        raise UserError(f"{model} and revision {revision!r} are two revisions; give one")
    return found["repository"], found["revision"]


def needed(files: Sequence[str]) -> list[str]:
    """Which of a repository's files conversion needs: configs, tokenizer, one form of the weights."""
    top = [file for file in files if "/" not in file]
    patterns: tuple[str, ...] = ("config.json", "generation_config.json", *TOKENIZER_PATTERNS)
    for marker, weights in WEIGHTS:
        if any(fnmatch(file, marker) for file in top):
            patterns += weights
            break
    return [file for file in top if any(fnmatch(file, pattern) for pattern in patterns)]


def commit(repository: str, revision: str | None = None) -> str:
    """The commit hash of a revision (branch, tag or hash; default: the main branch).

    Asks the hub, or, without a network, its cache on this machine.

    Raises:
        UserError: no such repository or revision, no permission, or neither network nor cached copy.
    """
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    found = _ask(repository, revision)
    return found[0] if found else _cached(repository, revision).name


def download(repository: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a repository's files in the hub's cache, and its commit hash. Raises as `commit` does."""
    from huggingface_hub import snapshot_download

    found = _ask(repository, revision)
    if found is None:
        folder = _cached(repository, revision)
    else:
        _require_weights(repository, found[1])
        try:
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=needed(found[1])))
        except Exception as error:
            raise _explained(error, repository, revision, begun=True) from None
    return folder, folder.name


def config_file(repository: str, revision: str) -> Path | None:
    """The config.json of a repository, without its weights; None where those are not Hugging Face's, or a folder of the
    hub's cache has all of it. Raises as `commit` does."""
    from huggingface_hub import snapshot_download

    found = _ask(repository, revision)
    if found is None:
        return None
    top = [file for file in found[1] if "/" not in file]
    if "config.json" not in top or not any(fnmatch(file, marker) for marker, _ in WEIGHTS[:2] for file in top):
        return None
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=["config.json"])) / "config.json"
    except Exception as error:
        raise _explained(error, repository, revision, begun=True) from None


def _ask(repository: str, revision: str | None) -> tuple[str, list[str]] | None:
    """A revision's commit hash and the names of its files, from the hub; None where that cannot be reached."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, revision=revision)
    except Exception as error:
        if is_network(error):
            return None
        raise _explained(error, repository, revision) from None
    return str(info.sha), [file.rfilename for file in info.siblings or ()]


def _require_weights(repository: str, files: Sequence[str]) -> None:
    """Raises UserError for a repository without weights that convert, with what it has in their place."""
    if any(fnmatch(file, marker) for file in files if "/" not in file for marker, _ in WEIGHTS):
        return
    if "adapter_config.json" in files:
        raise UserError(
            f"{repository} is an adapter of peft, no model; download it (hf download {repository} --local-dir FOLDER) "
            "and give its folder with --adapter to the model that it belongs to, or in place of a model"
        )
    inner = next(
        (file for file in files if any(fnmatch(file.rpartition("/")[2], marker) for marker, _ in WEIGHTS)), None
    )
    gguf = next((file for file in files if file.endswith(".gguf")), None)
    has = (
        f"; it has {gguf}, which jaxpaint export takes as a file"
        if gguf
        else f"; it has {inner}: download it (hf download {repository} --local-dir FOLDER) and give that folder"
        if inner
        else ""
    )
    raise UserError(f"{repository} on the Hugging Face hub has no {', '.join(marker for marker, _ in WEIGHTS)}{has}")


def _cached(repository: str, revision: str | None) -> Path:
    """The folder in the hub's cache on this machine, if it has weights."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "params.json"):
        file = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(file, str) and any(any(Path(file).parent.glob(marker)) for marker, _ in WEIGHTS):
            return Path(file).parent
    raise _unreachable(repository, revision)


def is_network(error: Exception) -> bool:
    """Whether the hub could not be reached, or had trouble of its own, so that a cached copy may serve."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    # The names of HTTP clients' errors: which client huggingface_hub uses depends on its version.
    clients = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, OfflineModeIsEnabled | ConnectionError) or bool(
        clients & {"TransportError", "ConnectionError", "Timeout"}
    )


def _explained(error: Exception, repository: str, revision: str | None, begun: bool = False) -> UserError:
    """In our own words: the hub's messages could quote a request and its headers. `begun` says that it had answered."""
    from huggingface_hub import constants, errors, get_token

    at = f" at revision {revision}" if revision else ""
    url = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        if get_token():
            return UserError(
                f"{repository} is gated, and your token's account has no access: ask for it at {url}, or set HF_TOKEN "
                "to one that has"
            )
        return UserError(
            f"{repository} is gated: accept its terms at {url}, then log in (hf auth login) or set HF_TOKEN to your "
            "access token"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repository} has no revision {revision!r}; see {url}/tree/main for its branches and tags")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return UserError(
            f"no folder {repository} here and no repository {repository} on the Hugging Face hub; check the spelling, "
            "or set HF_TOKEN if it is private"
        )
    if refused := _REFUSED.get(status_of(error) or 0):
        return UserError(f"downloading {repository}{at} from the Hugging Face hub failed: {refused}")
    if begun and (isinstance(error, errors.LocalEntryNotFoundError | OSError) or is_network(error)):
        return UserError(
            f"the connection to the Hugging Face hub broke while {repository}{at} was downloaded; run it again: files "
            "that are complete are kept"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) or is_network(error):
        return _unreachable(repository, revision)
    return UserError(
        f"downloading {repository}{at} from the Hugging Face hub failed ({type(error).__name__}); try again"
    )


# By the status of an answer.
_REFUSED = {
    401: "it does not accept your token; log in anew (hf auth login), or set HF_TOKEN to one that is valid",
    403: "your token may not read it; give one with the permission to read this repository",
    429: "it had too many requests; wait a few minutes and try again, logged in (hf auth login) if you are not",
}


def status_of(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _unreachable(repository: str, revision: str | None) -> UserError:
    at = f" at revision {revision}" if revision else ""
    return UserError(
        f"no folder {repository} here, the Hugging Face hub cannot be reached, and {repository}{at} is not in its "
        "cache; to work offline, give a local folder, or download the model where there is a network, copy the "
        "cache (HF_HOME) and set HF_HUB_OFFLINE=1"
    )
