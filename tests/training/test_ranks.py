"""Two processes under torchrun learn what one does."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from test_fit import CPU, SMALL, fit, make_cases

RECIPE = replace(SMALL, steps=4, network=replace(SMALL.network, stem_dropout=0.0))
SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
import torch; torch.set_num_threads(1)
from pathlib import Path
from test_ranks import RECIPE, fit, make_cases
from rsaseg.training import ranks
with ranks.joined("cpu") as device:
    assert ranks.count() == 2
    report = lambda *_: None
    network = fit(RECIPE, make_cases(), Path(sys.argv[2]), device, report)
    told = ranks.gathered([float(p.detach().sum()) for p in network.parameters()])
    assert told[0] == told[1]
    assert ranks.alone(lambda: 5) == (5 if ranks.rank() == 0 else None)
threads = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads  # one left over may abort Python
"""


def read(folder: Path, column: str) -> list[str]:
    with (folder / "log.csv").open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script), str(Path(__file__).parent), tmp_path / "two"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = fit(RECIPE, make_cases(), tmp_path / "one", CPU)
    assert read(tmp_path / "two", "cases") == read(tmp_path / "one", "cases")
    one, two = (np.array(read(tmp_path / name, "loss"), float) for name in ("one", "two"))
    assert np.allclose(one, two, rtol=1e-4)
    # a checkpoint does not depend on how many processes wrote it: nothing is left to do
    again = fit(RECIPE, make_cases(), tmp_path / "two", CPU)
    for a, b in zip(alone.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)
