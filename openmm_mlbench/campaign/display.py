"""How far the whole matrix is: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import IO, Any, Self

from openmm_mlbench.campaign.jobs import KINDS, REPORT, Cell
from openmm_mlbench.campaign.ledger import DONE, FAILED, STOPPED
from openmm_mlbench.campaign.scheduling import BLOCKED, READY, RUNNING, WAITING, Event, JobState, Schedule

PLAIN_INTERVAL_S = 30.0
_REFRESH_S = 1.0
_COLUMNS = ("data", "train", "export", "check", "simulate", "analyze")
_STYLES = {DONE: "green", FAILED: "bold red", BLOCKED: "yellow", RUNNING: "cyan", STOPPED: "yellow"}
_LAST_LINES = 8


class CampaignDisplay:
    """Shows a schedule while it runs; use it as a context manager.

    Args:
        schedule: what is shown.
        title: above the table.
        stream: where to write.
    """

    def __init__(self, schedule: Schedule, title: str, stream: IO[str] | None = None) -> None:
        self.schedule = schedule
        self.title = title
        self.stream = stream if stream is not None else sys.stderr
        self._live: Any = None
        self._shown = time.monotonic()
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                self._picture(), console=Console(file=self.stream), auto_refresh=False, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, event: Event) -> None:
        """Take note of what happened to a job."""
        line = self._line(event)
        self._lines = [*self._lines, line][-_LAST_LINES:]
        if self._live is None:
            print(line, file=self.stream, flush=True)
            self._shown = time.monotonic()

    def refresh(self) -> None:
        """Show how far all are, now and then."""
        if self._live is not None and time.monotonic() - self._shown >= _REFRESH_S:
            self._shown = time.monotonic()
            self._live.update(self._picture(), refresh=True)
        elif self._live is None and time.monotonic() - self._shown >= PLAIN_INTERVAL_S:
            self._shown = time.monotonic()
            print(self.summary(), file=self.stream, flush=True)

    def summary(self) -> str:
        """One line about all jobs."""
        states = self.schedule.states
        counts = Counter(state.state for state in states.values())
        parts = [f"{counts[DONE]} of {len(states)} jobs done"]
        parts += [f"{counts[name]} {name}" for name in (RUNNING, FAILED, BLOCKED) if counts[name]]
        running = [self._progress(key) for key, state in states.items() if state.state == RUNNING]
        return ", ".join(parts) + (": " + "; ".join(running[:4]) if running else "")

    def _progress(self, key: str) -> str:
        text = progress_text(self.schedule.told(key))
        return f"{key} {text}" if text else key

    def _line(self, event: Event) -> str:
        counts = Counter(state.state for state in self.schedule.states.values())
        what = {"again": "tried again after"}.get(event.state, event.state)
        took = f", {event.seconds:.0f} s" if event.seconds else ""
        reason = f": {event.reason}" if event.reason else ""
        reason += f" ({event.where})" if reason and event.where else ""
        return f"[{counts[DONE]}/{len(self.schedule.states)}] {event.key}: {what}{took}{reason}"

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("model", "system", "seed", *_COLUMNS, title=self.title, box=None, pad_edge=False)
        for cell, keys in self.schedule.matrix.cells.items():
            table.add_row(
                cell.model,
                cell.system,
                "" if cell.seed is None else str(cell.seed),
                *(self._cell(keys, kind) for kind in _COLUMNS),
            )
        report = self.schedule.states[REPORT]
        lines = [Text(line, overflow="ellipsis", no_wrap=True) for line in self._lines]
        return Group(table, Text(f"report: {report.state}    {self.summary_counts()}"), *lines)

    def summary_counts(self) -> str:
        """How many jobs stand where."""
        counts = Counter(state.state for state in self.schedule.states.values())
        order = (DONE, RUNNING, READY, WAITING, FAILED, BLOCKED, STOPPED)
        return ", ".join(f"{counts[name]} {name}" for name in order if counts[name])

    def _cell(self, keys: tuple[str, ...], kind: str) -> Any:
        from rich.text import Text

        own = [key for key in keys if self.schedule.matrix.jobs[key].kind == kind]
        if not own:
            return Text("")
        states = [self.schedule.states[key] for key in own]
        worst = worst_state(states)
        told = [self.schedule.told(key) for key in own if self.schedule.states[key].state == RUNNING]
        if kind == "simulate":
            text = self._simulated(own, told)
        else:
            text = "; ".join(filter(None, map(progress_text, told))) or worst
        return Text(text, style=_STYLES.get(worst, ""))

    def _simulated(self, keys: list[str], told: list[dict[str, Any]]) -> str:
        """Simulated time of all replicas, and their speed."""
        jobs, states = self.schedule.matrix.jobs, self.schedule.states
        total = sum(jobs[key].work_ps for key in keys)
        done = sum(jobs[key].work_ps for key in keys if states[key].state == DONE)
        done += sum(item.get("done") or 0.0 for item in told if item.get("unit") == "ps")
        speeds = [item["speed"] for item in told if item.get("speed")]
        text = f"{done:.4g}/{total:.4g} ps"
        ended = Counter(states[key].state for key in keys)
        text += f", {sum(speeds):.0f} steps/s" if speeds else ""
        return text + (f", {ended[FAILED]} failed" if ended[FAILED] else "")


def progress_text(told: dict[str, Any]) -> str:
    """What a job says of itself, in a few words."""
    if told.get("total") is None:
        return ""
    text = f"{told.get('done') or 0:.4g}/{told['total']:.4g} {told.get('unit', '')}"
    text += f", {told['speed']:.0f} steps/s" if told.get("speed") else ""
    return text + (f", {told['note']}" if told.get("note") else "")


def worst_state(states: list[JobState]) -> str:
    """The state that a reader should know of several."""
    found = {state.state for state in states}
    order = (FAILED, RUNNING, BLOCKED, STOPPED, READY, WAITING, DONE)
    return next(name for name in order if name in found)


TABLE_COLUMNS = ("model", "system", "seed", *_COLUMNS, "force MAE / meV/A", "stability / ps")


def table_rows(schedule: Schedule) -> list[list[str]]:
    """The matrix with what is done and what will run, for ``--dry-run`` and for the end."""
    rows = []
    for cell, keys in schedule.matrix.cells.items():
        rows.append(
            [
                cell.model,
                cell.system,
                "-" if cell.seed is None else str(cell.seed),
                *(_count(schedule, keys, kind) for kind in _COLUMNS),
                *(_result(schedule, cell, name) for name in ("force_mae", "stability")),
            ]
        )
    return rows


def _count(schedule: Schedule, keys: tuple[str, ...], kind: str) -> str:
    states = [schedule.states[key] for key in keys if schedule.matrix.jobs[key].kind == kind]
    if not states:
        return "-"
    counts = Counter("to do" if state.state in (READY, WAITING) else state.state for state in states)
    if len(states) == 1:
        return next(iter(counts))
    order = (DONE, RUNNING, "to do", FAILED, BLOCKED, STOPPED)
    return ", ".join(f"{counts[name]} {name}" for name in order if counts[name])


def _result(schedule: Schedule, cell: Cell, name: str) -> str:
    for key in schedule.matrix.cells[cell]:
        record = schedule.states[key].record
        if schedule.matrix.jobs[key].kind == "analyze" and record is not None:
            value, stderr, _, status = record.facts["results"].get(name, (None, None, "", ""))
            if value is None:
                return status or "-"
            text = f"{value:.4g}" + (f" +- {stderr:.2g}" if stderr else "")
            return f"at least {text}" if status == "censored" else text
    return "-"


def failure_rows(schedule: Schedule) -> list[list[str]]:
    """What failed and why, what cannot run for that, and where the log is."""
    rows = []
    for key, state in schedule.states.items():
        if state.state in (FAILED, BLOCKED):
            log = f"logs/{key}.log" if state.state == FAILED else ""
            rows.append([key, state.state, state.reason, log])
    return sorted(rows, key=lambda row: (row[1] != FAILED, KINDS.index(row[0].partition("/")[0])))


def collapse_rows(schedule: Schedule) -> list[list[str]]:
    """Replicas that collapsed, which is a result and no failure."""
    rows = []
    for key, state in schedule.states.items():
        facts = {} if state.record is None else state.record.facts
        if schedule.matrix.jobs[key].kind == "simulate" and "unstable" in facts.get("states", ()):
            rows.append([key, f"{min(facts['time_ps']):g} ps", "; ".join(facts["reasons"])])
    return rows


def estimate_text(schedule: Schedule, n_workers: int) -> str:
    """Time that is left for simulations, from the speed of finished ones of the same kind; empty if unknown."""
    speeds: dict[str, float] = {}
    timesteps: dict[str, float] = {}
    left = []
    for key, job in schedule.matrix.jobs.items():
        if job.kind != "simulate":
            continue
        group = key.rsplit("/", 2)[0]
        record = schedule.states[key].record
        if record is not None and record.facts.get("steps_per_second"):
            speeds[group] = record.facts["steps_per_second"]
        timesteps[group] = job.how["timestep_ps"]
        if schedule.states[key].state != DONE:
            left.append((group, job.work_ps))
    if not left:
        return ""
    known = [ps / timesteps[group] / speeds[group] for group, ps in left if group in speeds]
    total = sum(ps for _, ps in left)
    text = f"{total:.4g} ps to simulate"
    if known:
        hours = sum(known) / max(1, min(n_workers, len(known))) / 3600
        text += f"; {len(known)} of {len(left)} simulations about {hours:.2g} h on {n_workers} workers, by the speed of finished ones"
    return text
