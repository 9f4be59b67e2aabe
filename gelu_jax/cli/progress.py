"""What people see while runs train: a live table in a terminal, plain lines elsewhere."""

import time
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from gelu_jax.compare.config import CompareConfig, changed
from gelu_jax.compare.experiment import planned_runs
from gelu_jax.report.wording import duration, signed
from gelu_jax.runs.execution import Task
from gelu_jax.training.trainer import Point

LINE_SECONDS = 30.0
"""Where there is no terminal, a run has a line at its end, and one after so long."""

_WIDE = 80  # columns that the whole table takes


class ProgressDisplay:
    """Arms × seeds × learning rates, the time left, and the running paired difference.

    A context manager; call `update` after each evaluation.

    Args:
      config: what is trained; `train` shows a comparison of one arm.
      console: where to print.
    """

    def __init__(self, config: CompareConfig, console: Console):
        self._config, self._console = config, console
        self._steps = {arm: changed(config.run, c).steps for arm, c in config.arms.items()}
        self._planned = {
            arm: planned_runs(config, arm) * steps for arm, steps in self._steps.items()
        }
        self._points: dict[Task, Point | None] = {}
        self._stopped = set[Task]()
        self._current: Task | None = None
        self._trained = 0  # steps of this session: what its speed is taken from
        self._start = self._printed = time.monotonic()
        self._speed = ""
        self._live = Live(console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stop(self, _: int) -> str:
        """Clears the table from the terminal, when a signal ends the process."""
        self._live.stop()
        return ""

    def update(self, task: Task, point: Point | None, *, stopped: bool = False) -> None:
        """Shows how far a run is.

        Args:
          task: the run.
          point: its newest evaluation. The first call for a task says what was there before.
          stopped: it has ended there, before its last step.
        """
        known = task in self._points
        self._stopped.update([task] * stopped)
        if known and point is not None:
            before = self._points[task]
            self._trained += point.step - (before.step if before else 0)
            self._speed = self._throughput(before, point)
        self._points[task], self._current = point, task
        if self._console.is_terminal:
            self._live.update(self._view())
        elif known and point is not None and self._is_worth_a_line(task, point):
            self._console.print(self._line(task, point), soft_wrap=True, highlight=False)
            self._printed = time.monotonic()

    def _is_worth_a_line(self, task: Task, point: Point) -> bool:
        return self._ended(task, point) or time.monotonic() - self._printed >= LINE_SECONDS

    def _throughput(self, before: Point | None, point: Point) -> str:
        """The speed of training between two evaluations, without that of the evaluations."""
        steps = point.step - (before.step if before else 0)
        seconds = point.seconds - (before.seconds if before else 0.0)
        if steps <= 0 or seconds <= 0:
            return self._speed
        run = self._config.run
        context = getattr(run.data, "context", None)
        unit = "examples" if context is None else "tokens"
        return f"{steps * run.batch_size * (context or 1) / seconds:,.0f} {unit}/s"

    def _ended(self, task: Task, point: Point) -> bool:
        return point.diverged or task in self._stopped or point.step == self._steps[task.arm]

    @property
    def _ahead(self) -> tuple[int, int]:
        """Steps that are planned, and those of them still to be done; none after a divergence."""
        planned = remaining = 0
        for arm, steps in self._planned.items():
            points = [(task, point) for task, point in self._points.items() if task.arm == arm]
            steps = max(steps, len(points) * self._steps[arm])  # an extended grid has more runs
            planned, remaining = planned + steps, remaining + steps
            for task, point in points:
                if point is not None:
                    ended = self._ended(task, point)
                    remaining -= self._steps[arm] if ended else point.step
        return planned, remaining

    @property
    def share(self) -> float:
        """The part of all steps that is done."""
        planned, remaining = self._ahead
        return 1 - remaining / planned

    @property
    def left(self) -> str:
        """The time left, at the speed of this session so far."""
        remaining = self._ahead[1]
        if not remaining:
            return "done"
        if not self._trained:
            return "compiling" if self._current else "starting"
        seconds = (time.monotonic() - self._start) / self._trained * remaining
        return f"about {duration(seconds)} left"

    def _line(self, task: Task, point: Point) -> str:
        loss = "diverged" if point.diverged else f"{self._config.metric} {self._loss(point):.4f}"
        step = "" if self._ended(task, point) else f"step {point.step}, "
        step = f"stopped early at step {point.step}, " if task in self._stopped else step
        speed = f", {self._speed}" if self._speed else ""
        return f"{self.share:4.0%}  {task.arm} {task.name}: {step}{loss}  ({self.left}{speed})"

    def _loss(self, point: Point) -> float:
        """The loss by which the arms are compared."""
        training = self._config.metric == "training loss"
        return point.train_loss if training else point.validation_loss

    def _view(self) -> RenderableType:
        done = ", ".join(filter(None, (f"{self.share:.0%}", self.left, self._speed)))
        if self._console.width < _WIDE:
            return self._narrow_view(done)
        columns = "arm", "now", "seeds", "mean loss", "paired difference"
        table = Table(*columns, box=None, padding=(0, 2))
        for arm in self._config.arms:
            table.add_row(*self._row(arm))
        progress = Table.grid(padding=(0, 2))
        progress.add_row(ProgressBar(total=1.0, completed=self.share, width=40), done)
        return Group(table, progress)

    def _narrow_view(self, done: str) -> RenderableType:
        """Without the bar, and with what is being trained below the table: no number is cut."""
        table = Table("arm", box=None, padding=(0, 1))
        for heading in ("seeds", "loss", "difference"):
            table.add_column(heading, no_wrap=True)
        for arm in self._config.arms:
            name, _, *numbers = self._row(arm)
            table.add_row(name, *numbers)
        task = self._current
        return Group(table, f"{task.arm} {self._now(task.arm)}" if task else "", done)

    def _row(self, arm: str) -> tuple[str, ...]:
        first_arm = next(iter(self._config.arms))
        final, first = self._finals(arm), self._finals(first_arm)
        gaps = [final[seed] - first[seed] for seed in final.keys() & first.keys()]
        return (
            arm,
            self._now(arm),
            f"{len(final)}/{self._config.seeds}",
            f"{fmean(final.values()):.4f}" if final else "",
            signed(fmean(gaps), 4) if gaps and arm != first_arm else "",
        )

    def _finals(self, arm: str) -> dict[int, float]:
        """Final losses of an arm's reported runs, by seed; a run that stopped early has none."""
        return {
            task.seed: self._loss(point)
            for task, point in self._points.items()
            if (task.arm, task.purpose) == (arm, "report") and task not in self._stopped
            if point and self._ended(task, point)
        }

    def _now(self, arm: str) -> str:
        if self._current is None or self._current.arm != arm:
            return ""
        point = self._points[self._current]
        loss = f", {self._loss(point):.4f}" if point else ""
        return f"{self._current.name}, step {point.step if point else 0}{loss}"
