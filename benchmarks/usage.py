"""Run `cxrlt` and tell what it took.

A process of its own: a child counts the memory of the process it is forked from as its own, so that one must
be small.
"""

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    """Print what it took, its exit code and the end of what it printed, as JSON."""
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
    found = {
        "seconds": seconds,
        "processor": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "code": done.returncode,
        "printed": done.stdout[-1000:],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
