"""An exported folder on a hub: private unless asked otherwise, with the token that the hub's own tools use."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, errors, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from mixcpt.errors import ConfigError, MixcptError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MESSAGE = "Export of mixcpt"
_NETWORK_ERROR = errors.HTTPError  # type: ignore[attr-defined]  # of whichever library the hub's tools use


class HubError(MixcptError):
    """The hub did not take a model."""


def require_login(repository: str, *, endpoint: str | None = None) -> str:
    """Returns the user name that the hub knows us by; called before any work that a refusal would waste.

    Args:
        repository: Where something is to be pushed to, OWNER/NAME.
        endpoint: Address of the hub; None for that of the hub's own tools (HF_ENDPOINT).

    Raises:
        ConfigError: If `repository` is no OWNER/NAME, or there is no token.
        HubError: If the hub is away or refuses the token.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--push-to {repository!r} is no OWNER/NAME", "e.g. --push-to my-team/my-model")
    if get_token() is None:
        raise ConfigError("there is no token for the hub", "set HF_TOKEN, or log in once with: hf auth login")
    with _explained("the hub does not know the token"):
        return str(HfApi(endpoint).whoami()["name"])


def push(folder: Path, repository: str, *, is_public: bool, endpoint: str | None = None) -> str:
    """Returns the address of the commit that holds the folder's files; creates the repository where there is none.

    Raises:
        ConfigError: If the repository is public already and the push was not meant to be.
        HubError: If the hub refuses, or cannot be reached.
    """
    api = HfApi(endpoint)
    with _explained(f"the hub did not take {folder} as {repository}"):
        api.create_repo(repository, private=not is_public, exist_ok=True)
        if not is_public and not api.model_info(repository).private:
            raise ConfigError(f"{repository} is there already, and public", "add --public, or name another repository")
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=_MESSAGE).commit_url)


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turns what the hub and the network say into one error without a token in it."""
    try:
        yield
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no answer"
        said = error.server_message or type(error).__name__
        raise HubError(f"{problem}: {said} ({code})", "check the name, and that the token may write") from error
    except (_NETWORK_ERROR, OfflineModeIsEnabled, OSError) as error:
        raise HubError(f"{problem}: it cannot be reached ({type(error).__name__})", "check the network") from error
    except ValueError as error:
        raise HubError(f"{problem}: {error}", "edit the README.md of the folder, and push it again") from error
