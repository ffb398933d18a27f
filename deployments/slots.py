"""How many GPUs the runs of all workers may take together: `python -m deployments.slots 8`.

The bound is a Prefect concurrency limit; heavy stages lease slots of it while they work (`tasks/slots.py`).
"""

import sys

from prefect.client.orchestration import SyncPrefectClient, get_client

from tasks.slots import LIMIT


def set_gpu_slots(client: SyncPrefectClient, num: int) -> None:
    """Makes the limit, or changes it; slots that are taken stay taken."""
    client.upsert_global_concurrency_limit_by_name(LIMIT, num)


if __name__ == "__main__":
    with get_client(sync_client=True) as connected:
        set_gpu_slots(connected, int(sys.argv[1]))
