"""Whether the Hugging Face Hub answers, asked once: its own clients try for a minute without a network."""

from __future__ import annotations

# Seconds to wait for an answer.
PATIENCE = 5.0


def silence(repository: str, file: str, kind: str = "model", revision: str | None = None) -> Exception | None:
    """Why the Hub does not answer a question about a file; None where it does, whatever it says.

    Args:
        repository: `NAMESPACE/NAME` or `NAME`.
        file: its name there, whether it exists or not.
        kind: `model` or `dataset`.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        get_hf_file_metadata(hf_hub_url(repository, file, repo_type=kind, revision=revision), timeout=PATIENCE)
    # An answer, or a name that no repository can have: what it means is said by those who ask for the file.
    except (HfHubHTTPError, HFValidationError):
        return None
    # Which errors a missing network causes depends on the version: those of httpx, of requests or OSErrors.
    except Exception as error:
        return error
    return None
