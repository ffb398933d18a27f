"""Gives MLflow the account of the workers, with the password that the environment has now.

The admin's own name and password are in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, as MLflow wants them.
"""

import os

import requests

_USERS = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/users"
_ADMIN = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
_TIMEOUT_SECONDS = 60


def main() -> None:
    account = {"username": os.environ["WORKER_USERNAME"], "password": os.environ["WORKER_PASSWORD"]}
    made = requests.post(f"{_USERS}/create", json=account, auth=_ADMIN, timeout=_TIMEOUT_SECONDS)
    if made.status_code == requests.codes.ok:
        print(f"made the account {account['username']}")
    elif made.json().get("error_code") == "RESOURCE_ALREADY_EXISTS":
        changed = requests.patch(f"{_USERS}/update-password", json=account, auth=_ADMIN, timeout=_TIMEOUT_SECONDS)
        changed.raise_for_status()
        print(f"the account {account['username']} is there; its password is the one given now")
    else:
        made.raise_for_status()


if __name__ == "__main__":
    main()
