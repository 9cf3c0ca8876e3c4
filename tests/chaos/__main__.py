"""The long chaos suite: every fault many times, at steady arrival and under a backlog, with one worker and with three.

    python -m tests.chaos [--seed N] [--fault NAME ...] [--json FILE]

Takes about twenty minutes. Prints one row for each fault, and what was not as it must be; ends with 1 if anything was
not. What needs the superuser (network namespaces, a small disk) or a wheel that is not there is not tried, and the row
says so. At last a few kills with the real model, that of the demo.
"""

import argparse
import json
import shutil
import sys
import tempfile
from itertools import product
from pathlib import Path
from random import SystemRandom

from rich.console import Console

from gpner.errors import CheckpointError
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.real_model import demo_reader
from tests.chaos.scenario import BRISK, Load, Reader, Run, run
from tests.chaos.sites import NotPossible
from tests.chaos.table import Row, as_json, table

LOADS = [Load(workload, workers) for workload, workers in product(("steady", "backlog"), (1, 3))]
REAL_MODEL = "worker killed, real model"
REAL_KILLS = 3


class Suite:
    """Runs scenarios one after another and keeps their rows.

    Args:
        seed: That of every run, so that one of them can be done again alone.
        console: Where they are told.
    """

    def __init__(self, seed: int, console: Console) -> None:
        self.rows: list[Row] = []
        self.all_well = True
        self._seed = seed
        self._console = console

    def add(self, name: str, fault: Fault, loads: list[Load], times: int, reader: Reader = BRISK) -> None:
        """Run a fault under these loads; they make one row."""
        row = Row(name)
        self.rows.append(row)
        for load in loads:
            folder = Path(tempfile.mkdtemp(prefix="gpner-chaos-"))
            try:
                report = run(fault, load, times, self._seed, folder, reader, long=True)
            except NotPossible as reason:
                row.not_tried = str(reason)
                folder.rmdir()
                return
            row.runs.append(report)
            self._tell(name, report, folder)

    def skip(self, name: str, reason: str) -> None:
        """Note a row that cannot be had."""
        self.rows.append(Row(name, not_tried=reason))

    def _tell(self, name: str, report: Run, folder: Path) -> None:
        found = report.audit
        self._console.print(
            f"{name}, {report.load}: {report.faults} faults, {found.documents} documents, {found.lost} lost, "
            f"{found.twice} twice, {found.calls} calls, {found.calls_lost} lost, {report.seconds:.0f} s",
            highlight=False,
        )
        for problem in found.problems:
            self.all_well = False
            self._console.print(f"  {problem}", style="red", markup=False, highlight=False)
        if found.problems:
            self._console.print(f"  logs of the workers: {folder}", highlight=False)
        else:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6), help="random by default")
    names = [*(fault.name for fault in FAULTS), REAL_MODEL]
    parser.add_argument("--fault", action="append", choices=names, metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    console = Console(width=140)
    console.print(f"seed {options.seed}")
    suite = Suite(options.seed, console)
    wanted = options.fault or names
    for fault in FAULTS:
        if fault.name in wanted:
            suite.add(fault.name, fault, LOADS, fault.long)
    if REAL_MODEL in wanted:
        try:
            suite.add(REAL_MODEL, FAULTS[0], [Load("backlog", 1), Load("steady", 3)], REAL_KILLS, demo_reader())
        except CheckpointError as error:
            suite.skip(REAL_MODEL, str(error))
    console.print(table(suite.rows))
    if options.json:
        options.json.write_text(json.dumps(as_json(suite.rows, options.seed), indent=2) + "\n")
    return 0 if suite.all_well else 1


if __name__ == "__main__":
    sys.exit(main())
