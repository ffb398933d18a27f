"""Push an exported folder to a hub: private by default, with the token of the hub's own tools."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, errors, get_token

from mixcpt.errors import ConfigError, MixcptError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MESSAGE = "Export of mixcpt"
_NETWORK_ERROR = errors.HTTPError  # type: ignore[attr-defined]  # base class of the HTTP library that huggingface_hub uses


class HubError(MixcptError):
    """The hub refused a model."""


def require_login(repository: str, *, endpoint: str | None = None) -> str:
    """Log in to the hub and return the user name; call it before any work that a refusal would waste.

    The address `endpoint` is by default that of the hub's own tools (HF_ENDPOINT).

    Raises:
        ConfigError: If `repository` is not OWNER/NAME, or there is no token.
        HubError: If the hub cannot be reached or refuses the token.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--push-to {repository!r} is not OWNER/NAME", "use e.g. --push-to my-team/my-model")
    if get_token() is None:
        raise ConfigError("there is no token for the hub", "set HF_TOKEN, or log in once with: hf auth login")
    with _explained("the hub refused the token"):
        return str(HfApi(endpoint).whoami()["name"])


def push(folder: Path, repository: str, *, is_public: bool, endpoint: str | None = None) -> str:
    """Push a folder, creating the repository if necessary, and return the address of the commit.

    Raises:
        ConfigError: If the repository exists and is public, but `is_public` is false.
        HubError: If the hub refuses the push or cannot be reached.
    """
    api = HfApi(endpoint)
    with _explained(f"pushing {folder} to {repository} failed"):
        api.create_repo(repository, private=not is_public, exist_ok=True)
        if not is_public and not api.model_info(repository).private:
            raise ConfigError(f"{repository} exists and is public", "add --public, or name another repository")
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=_MESSAGE).commit_url)


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turn errors of the hub and the network into a `HubError` that contains no token."""
    try:
        yield
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no answer"
        message = error.server_message or type(error).__name__
        raise HubError(f"{problem}: {message} ({code})", "check the name, and that the token may write") from error
    except (_NETWORK_ERROR, errors.OfflineModeIsEnabled, OSError) as error:
        raise HubError(f"{problem}: no connection ({type(error).__name__})", "check the network") from error
    except ValueError as error:
        raise HubError(f"{problem}: {error}", "correct the README.md of the folder and push it again") from error
