"""Whether the servers that the environment names take a request: `python healthcheck.py [URL...]`, exit code 0 or 1.

A server's own `/health` answers everybody, also a client that it refuses everything else: one with a wrong password, or
one that calls it by a name which it does not know. So what is asked is a route of the API that needs the database, by
the name and with the credentials that the clients of these images use. Each URL has to answer 200 besides.
"""

import base64
import os
import sys
import urllib.request
from urllib.request import Request

_TIMEOUT_SECONDS = 10


def requests() -> list[Request]:
    """Returns a question to each server that this environment has the address of."""
    found = [Request(url) for url in sys.argv[1:]]
    if prefect := os.environ.get("PREFECT_API_URL"):
        count = Request(f"{prefect}/flows/count", data=b"{}", headers={"Content-Type": "application/json"})
        found.append(_signed(count, os.environ.get("PREFECT_API_AUTH_STRING", "")))
    if mlflow := os.environ.get("MLFLOW_TRACKING_URI"):
        account = (os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
        found.append(_signed(Request(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"), ":".join(account)))
    return found


def trouble(request: Request) -> str:
    """Returns why a server does not answer; empty where it does."""
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
            return ""
    except OSError as error:  # refused, timed out, or an answer such as 401 and 403
        return f"{request.full_url}: {error}"


def _signed(request: Request, credentials: str) -> Request:
    request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    return request


if __name__ == "__main__":
    found = [problem for request in requests() if (problem := trouble(request))]
    print("\n".join(found))
    raise SystemExit(1 if found else 0)
