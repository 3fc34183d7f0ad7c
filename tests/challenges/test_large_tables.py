"""A million rows in a process of its own: what it holds at most is known to the system alone."""

import subprocess
import sys
from pathlib import Path

import pytest

N_ROWS = 1_000_000
MOST_BYTES = 1 << 30
SPEC = "train: train.csv\nid: image\npatient: patient\nclasses: [Mass, Hernia]\n"
READ = """
import sys
from pathlib import Path
from cxrlt.challenges import get_challenge

inputs = Path(sys.argv[1])
table = get_challenge("csv", inputs).read("train", inputs)
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(len(table), table["patient"].nunique(), int(table["Mass"].sum()), 1024 * int(peak))
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells the largest memory")
def test_a_million_rows_take_less_than_a_gibibyte(tmp_path):
    (tmp_path / "challenge.yaml").write_text(SPEC)
    with (tmp_path / "train.csv").open("w") as file:
        file.write("image,patient,Mass,Hernia\n")
        file.writelines(f"{n:08x}.png,p{n // 4:07d},{n % 3 % 2},{n % 5 // 4}\n" for n in range(N_ROWS))
    run = [sys.executable, "-c", READ, str(tmp_path)]
    finished = subprocess.run(run, capture_output=True, text=True, check=True)
    n_rows, n_patients, n_positives, peak = map(int, finished.stdout.split())
    assert (n_rows, n_patients, n_positives) == (N_ROWS, N_ROWS // 4, N_ROWS // 3)
    assert peak < MOST_BYTES
