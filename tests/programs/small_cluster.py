"""A small cluster for the programs of a test: prints its address, and ends when its standard input does."""

from __future__ import annotations

import sys

import ray

if __name__ == "__main__":
    ray.init(address="local", num_cpus=4, object_store_memory=300 << 20, include_dashboard=False, log_to_driver=False)
    print("address", ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
    ray.shutdown()
