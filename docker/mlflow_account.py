"""Create the workers' account in MLflow, or set its password to the one in the environment.

MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are the name and password of the admin, as MLflow expects.
"""

import os

import requests

_USERS = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/users"
_ADMIN = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
_TIMEOUT_SECONDS = 60


def main() -> None:
    account = {"username": os.environ["WORKER_USERNAME"], "password": os.environ["WORKER_PASSWORD"]}
    created = requests.post(f"{_USERS}/create", json=account, auth=_ADMIN, timeout=_TIMEOUT_SECONDS)
    if created.status_code == requests.codes.ok:
        print(f"created the account {account['username']}")
    elif created.json().get("error_code") == "RESOURCE_ALREADY_EXISTS":
        changed = requests.patch(f"{_USERS}/update-password", json=account, auth=_ADMIN, timeout=_TIMEOUT_SECONDS)
        changed.raise_for_status()
        print(f"the account {account['username']} exists; its password was set")
    else:
        created.raise_for_status()


if __name__ == "__main__":
    main()
