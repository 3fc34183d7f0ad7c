"""Files of weights on the Hugging Face Hub, by address: hf-hub:ORG/REPO/FILE@REVISION."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cxrlt.errors import UserError, shortened

ADDRESS = re.compile(r"hf-hub:(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+)(@(?P<revision>[^@]+))?")


@dataclass(frozen=True)
class FetchedFile:
    """A file in the cache of huggingface_hub, and the commit that it belongs to."""

    path: Path
    revision: str


def is_hub_address(value: bool | Path) -> bool:
    """Return whether the value of model.pretrained is an address on the hub, not a local file."""
    return isinstance(value, Path) and value.as_posix().startswith("hf-hub:")


@cache  # a branch may move between loading a file and recording its commit
def fetch(address: str) -> FetchedFile:
    """Download a file, or take it from the cache of huggingface_hub. REVISION is main if it is missing.

    HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE apply. Without a network, a cached file is enough. Raises
    UserError for a bad address, no access, or a failed download; OSError for a full or read-only disk.
    """
    from huggingface_hub import hf_hub_download

    parts = ADDRESS.fullmatch(address)
    if parts is None or ".." in address:
        raise UserError(
            f"model.pretrained: {shortened(address)} is not of the form hf-hub:ORG/REPO/FILE@REVISION. Name "
            "one file of a repository, such as hf-hub:microsoft/rad-dino/model.safetensors@main."
        )
    try:
        path = Path(hf_hub_download(parts["repo"], parts["file"], revision=parts["revision"]))
    except Exception as error:  # huggingface_hub and its clients for HTTP and storage raise different errors
        if isinstance(error, OSError) and error.errno:
            raise
        raise _download_error(parts, error) from error
    return FetchedFile(path, path.parents[len(Path(parts["file"]).parts) - 1].name)


def _download_error(parts: re.Match[str], error: Exception) -> UserError:
    """Return the error for a file that cannot be downloaded. It never contains the token."""
    from huggingface_hub import errors

    repo, file, revision = parts["repo"], parts["file"], parts["revision"] or "main"
    page = f"https://huggingface.co/{repo}"
    cause = error.__cause__ or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        why = f"access to {repo} needs permission. Accept its terms on {page} and set HF_TOKEN"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError) or status == 401:
        why = f"{repo} does not exist, is private, or HF_TOKEN is not valid. Correct the name or the token"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"{repo} has no revision {revision}. Use a branch, tag or commit of {page}/commits/main"
    elif isinstance(error, errors.EntryNotFoundError) and status == 404:
        why = f"{repo} has no file {file} at {revision}. Use one of {page}/tree/{revision}"
    else:
        reason = f"HTTP status {status}" if status else str(cause).partition("\n")[0].rstrip(".")
        # the HTTP client quotes a header that is not valid
        reason = type(cause).__name__ if "Bearer" in reason else reason
        why = f"the download failed ({shortened(reason, 160)}). Download {page}/blob/{revision}/{file} "
        why += "on a machine with internet and pass --model.pretrained FILE"
    return UserError(f"model.pretrained: {shortened(parts[0], 160)}: {why}.")


def local_path(file: Path) -> Path:
    """Return the path of a file, or of the download of a hub address. Raises UserError as `fetch`."""
    return fetch(file.as_posix()).path if is_hub_address(file) else file
