"""Names of systems and scenarios in; measured rows and two Markdown tables in a folder out.

    python -m benchmarks.sync run --peers DIR --out DIR [--chunks 2400] [--systems …] [--scenarios …] [--rounds 1]
    python -m benchmarks.sync report --out DIR

Systems take turns inside each scenario, and another one begins in each round.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.sync.report import ROWS, append_row, counts_table, described, read_rows, times_table
from benchmarks.sync.scenarios import SCENARIOS
from benchmarks.sync.systems import known_systems
from benchmarks.sync.trial import Trial


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and write the tables")
    report = commands.add_parser("report", help="write the tables from what was measured")
    for each in (run, report):
        each.add_argument("--out", type=Path, required=True, help="rows.jsonl, counts.md and times.md")
    run.add_argument("--peers", type=Path, required=True, help="the virtual environments, named as the libraries")
    run.add_argument("--chunks", type=int, default=2400)
    run.add_argument("--rounds", type=int, default=1)
    run.add_argument("--systems", nargs="+", help="all by default; ratios are to the first")
    run.add_argument("--scenarios", nargs="+", help="all by default; `timed` for those worth a time")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    if arguments.command == "run":
        _measure(arguments, out)
    rows = read_rows(out)
    for name, table in (("counts.md", counts_table(rows)), ("times.md", times_table(rows))):
        (out / name).write_text(table, encoding="utf-8")
        print(f"\n{out / name}\n\n{table}")


def _measure(arguments: argparse.Namespace, out: Path) -> None:
    known = known_systems(arguments.peers.absolute())
    chosen = [s for s in SCENARIOS if _is_chosen(s.key, s.is_timed, arguments.scenarios)]
    trials = [Trial(known[name], out / "work", arguments.chunks) for name in arguments.systems or known]
    out.mkdir(parents=True, exist_ok=True)
    (out / ROWS).unlink(missing_ok=True)
    for trial in trials:
        print(f"{trial.system.name}: first load of {trial.chunks:,} chunks", flush=True)
        trial.prepare()
    for round_ in range(arguments.rounds):
        for scenario in chosen:
            turn = round_ % len(trials)
            for trial in trials[turn:] + trials[:turn]:
                for row in scenario.run(trial):
                    append_row(out, replace(row, round=round_))
                    print(f"round {round_}, {row.scenario}, {row.system}: {described(row)}", flush=True)


def _is_chosen(key: str, is_timed: bool, wanted: list[str] | None) -> bool:
    return wanted is None or key in wanted or (is_timed and "timed" in wanted)


if __name__ == "__main__":
    main()
