"""A model on the Hugging Face Hub: the folder for timm, a model card and its pictures, as one commit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.model_file import read_header, weights_file
from ..errors import CoadviseError, one_line
from ..run.reading import RunFiles, read_run
from ..system.progress import QUIET, Display
from .exporting import export
from .model_card import CARD, Subject, write_model_card
from .timm_folder import TIMM


class HubError(CoadviseError):
    """A repository that cannot be named, reached or written to."""


@dataclass(frozen=True)
class Parcel:
    """What goes to the Hub.

    Attributes:
        folder: the files as they will lie there.
        repository: OWNER/NAME.
    """

    folder: Path
    repository: str

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / CARD

    @property
    def address(self) -> str:
        """Where people will find it."""
        return f"{_endpoint()}/{self.repository}"

    def files(self) -> dict[str, Path]:
        """Names on the Hub → files here, in the order of the names."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    def sizes(self) -> dict[str, int]:
        """Names on the Hub → bytes."""
        return {name: path.stat().st_size for name, path in self.files().items()}


@contextmanager
def parcel(source: Path, repository: str, licence: str | None = None, display: Display = QUIET) -> Iterator[Parcel]:
    """Everything that goes to the Hub, in a folder that is gone when the block ends. No network is used.

    Args:
        source: folder of a finished run, or a file of a model of ours.
        repository: OWNER/NAME.
        licence: of the weights; the card names one only where it is given.

    Raises:
        HubError: no name that a repository can have.
        RunError, CheckpointError, ModelError: as for `export`.
    """
    _check_name(repository)
    known = read_header(weights_file(source))
    if known is not None and known.recipe.data.labels == "several":
        raise HubError(
            f"{source} gives an image any number of classes (data.labels=several), and the card is for models that "
            "give one; export it with --to timm"
        )
    run: RunFiles | None = read_run(source) if (source / "result.json").is_file() else None
    with tempfile.TemporaryDirectory(prefix="coadvise-push-") as temporary:
        folder = Path(temporary) / "model"
        _, written = export(source, TIMM, folder, display=display)
        for line in written.lines[:1]:
            display.say(line)
        header = read_header(weights_file(source))
        assert header is not None, "what was exported has one"
        write_model_card(folder, Subject(repository, licence, header, run, source, bool(written.facts["ours"])))
        yield Parcel(folder, repository)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        reason = "" if repository.count("/") == 1 else "it has no owner"
    except HFValidationError as error:
        reason = one_line(error)
    if reason:
        raise HubError(f"'{repository}' is no name of a repository on the Hub ({reason}); give OWNER/NAME, as me/pets")


def upload(files: Parcel, *, private: bool = False, replace_card: bool = False) -> str:
    """Make the repository if it is not there, and add the files in one commit.

    A model card that is there already stays, unless it is to be replaced: somebody may have written it.

    Returns:
        The address of the repository.

    Raises:
        HubError: no network, no token, no right to write there, or a repository that everybody can see where a private
            one is asked for.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=_endpoint(), library_name="coadvise")
    try:
        address = api.create_repo(files.repository, private=private or None, exist_ok=True)
        # One that was there stays as it was, whatever is asked for.
        public = private and not api.model_info(files.repository).private
        if public:
            raise HubError(
                f"{files.repository} is there already, and everybody can see it; make it private in its settings at "
                f"{address}/settings, give another name, or leave --private out"
            )
        kept = not replace_card and api.file_exists(files.repository, CARD)
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
            for name, path in files.files().items()
            if not (kept and name == CARD)
        ]
        api.create_commit(files.repository, operations, commit_message="Add model")
    except HubError:
        raise
    except Exception as error:  # of the client, of its HTTP library, of the system: they have no common base
        raise HubError(f"{files.repository} cannot be uploaded to {_endpoint()}: {_reason(error)}") from error
    return f"{address} ({CARD} there was kept: --replace-card replaces it)" if kept else str(address)


def _endpoint() -> str:
    """Address of the Hub, which HF_ENDPOINT may change."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "the Hub knows no such token; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    if status == 403:
        return "the token may not write there; check OWNER, or make a token with write access"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it, or see what would go with --dry-run"
    if isinstance(error, HfHubHTTPError):
        return f"{one_line(error)[:300]}"
    return f"{one_line(error)[:300]}; check the network, or see what would go with --dry-run"
