"""Run `cxrlt` and print its resource usage.

This is a separate small process: on Linux the peak memory of a child includes that of the forking process.
"""

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    """Print resource usage, exit code and the end of the output as JSON."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "cxrlt", *sys.argv[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "code": done.returncode,
        "printed": done.stdout[-1000:],
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
