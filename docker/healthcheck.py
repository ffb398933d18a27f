"""Check that the servers in the environment accept requests: `python healthcheck.py [URL...]`, exit code 0 or 1.

A server's own `/health` also answers clients with a wrong password or host name, whose other requests fail. This check
calls an API route that needs the database, with the host name and the credentials of the clients of these images. In
addition, every given URL must answer 200.
"""

import base64
import os
import sys
import urllib.request
from urllib.request import Request

_TIMEOUT_SECONDS = 10


def requests() -> list[Request]:
    """Return one request per server whose address is in the environment, and one per given URL."""
    checks = [Request(url) for url in sys.argv[1:]]
    if prefect := os.environ.get("PREFECT_API_URL"):
        count = Request(f"{prefect}/flows/count", data=b"{}", headers={"Content-Type": "application/json"})
        checks.append(_signed(count, os.environ.get("PREFECT_API_AUTH_STRING", "")))
    if mlflow := os.environ.get("MLFLOW_TRACKING_URI"):
        account = (os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
        checks.append(_signed(Request(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"), ":".join(account)))
    return checks


def problem(request: Request) -> str:
    """Send a request and return the reason why it fails; empty if it is answered."""
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
            return ""
    except OSError as error:  # refused, timed out, or an answer such as 401 and 403
        return f"{request.full_url}: {error}"


def _signed(request: Request, credentials: str) -> Request:
    request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    return request


if __name__ == "__main__":
    problems = [reason for request in requests() if (reason := problem(request))]
    print("\n".join(problems))
    raise SystemExit(1 if problems else 0)
