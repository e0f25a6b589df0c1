"""A study on a Ray cluster of this machine's: seconds against the number of workers, of one thread each.

    python benchmarks/cluster.py [--workers 1,2] [--rounds 2] [--limit 200] \\
        [--model smollm2 --tasks lambada_openai --data lambada_openai=FILE]

It begins a cluster of its own for each run, on loopback, and ends it. Seconds are from the first part that goes out to
the last score in the store: machines, models and compiled programs are there already, but for what the later workers
load. Numbers of workers take turns. Give it a machine of its own, with a core for each worker.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RAY = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
PLANS = {"strategies": "skip,reverse,parallel,looped-parallel", "loops": "2,3", "starts": "1-6"}
TASKS = "painter_facts,painter_places,painter_letters"  # painter-16's own
STUDY = """
import json, sys, time
from jaxpaint.studies.cluster import Cluster
from jaxpaint.studies.run import open_session
from jaxpaint.studies.settings import spec_from
address, settings = sys.argv[1], json.loads(sys.argv[2])
spec = spec_from(settings)
with open_session(spec, tell=print, cluster=Cluster(address, {"CPU": 1})) as session:
    began = time.perf_counter()
    session.score(spec.variants(session.model.num_layers))
    print("seconds", time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2", help="numbers of them, by commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=200, help="documents a task (default: %(default)s)")
    parser.add_argument("--model", default="painter-16", help="(default: %(default)s)")
    parser.add_argument("--tasks", default=TASKS, help="(default: %(default)s)")
    parser.add_argument("--data", action="append", help="TASK=FILE, as the study's option")
    options = parser.parse_args()
    settings = {"model": options.model, "tasks": options.tasks, "dtype": "float32", **PLANS}
    settings |= {"data": options.data} if options.data else {}
    sizes = [int(size) for size in options.workers.split(",")]
    _seconds(1, {**settings, "limit": 4.0})  # compiles
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(options.rounds):
        for size in sizes[:: 1 if number % 2 == 0 else -1]:
            found[size].append(_seconds(size, {**settings, "limit": options.limit}))
    least = min(found[sizes[0]])
    print("\n| workers | seconds of each round | least | times the first |\n|---|---|---|---|")
    for size, seconds in found.items():
        each = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"| {size} | {each} | {min(seconds):.1f} | {least / min(seconds):.2f} |")


def _seconds(workers: int, settings: dict[str, Any]) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**os.environ, **own, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        where = ["--head", "--block", "--port", address.rpartition(":")[2], "--node-ip-address", "127.0.0.1"]
        how = ["--num-cpus", str(workers), "--object-store-memory", "200000000", "--include-dashboard", "false"]
        command = [sys.executable, "-c", RAY, "start", *where, *how, "--temp-dir", str(Path(folder, "ray"))]
        nowhere = subprocess.DEVNULL
        head = subprocess.Popen(command, env=environment, stdout=nowhere, stderr=nowhere)
        try:
            _await(address)
            own_store = {**settings, "store": str(Path(folder, "s.sqlite"))}
            study = [sys.executable, "-c", STUDY, address, json.dumps(own_store)]
            done = subprocess.run(study, env=environment, capture_output=True, text=True)
        finally:
            head.terminate()
            head.wait()
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return float(done.stdout.rpartition("seconds ")[2])


def _await(address: str) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(600):
        with socket.socket() as asked:
            if not asked.connect_ex((host, int(port))):
                return
        time.sleep(0.1)
    raise SystemExit("the cluster did not begin")


if __name__ == "__main__":
    main()
