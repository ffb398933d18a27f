"""Limit of the GPUs that the runs of all workers use together: `python -m deployments.slots 8`.

The limit is a Prefect concurrency limit; GPU stages lease its slots while they work (`tasks/slots.py`).
"""

import sys

from prefect.client.orchestration import SyncPrefectClient, get_client

from tasks.slots import LIMIT


def set_gpu_slots(client: SyncPrefectClient, num: int) -> None:
    """Create or change the limit; leased slots stay leased."""
    client.upsert_global_concurrency_limit_by_name(LIMIT, num)


if __name__ == "__main__":
    with get_client(sync_client=True) as connected:
        set_gpu_slots(connected, int(sys.argv[1]))
