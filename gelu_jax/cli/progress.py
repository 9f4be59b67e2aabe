"""What a person sees while runs train: a live board in a terminal, plain lines elsewhere."""

import time
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from gelu_jax.compare.config import CompareConfig, changed
from gelu_jax.compare.experiment import planned_runs
from gelu_jax.report.verdict import duration, signed
from gelu_jax.runs.execution import Task
from gelu_jax.training.trainer import Point


class ProgressDisplay:
    """Arms × seeds × rates as they go, with the time left and the running paired gap.

    Use it as a context, and give its ``update`` what was evaluated.
    """

    def __init__(self, config: CompareConfig, console: Console):
        self.config, self.console = config, console
        self.steps = {arm: changed(config.run, c).steps for arm, c in config.arms.items()}
        self.planned = {arm: planned_runs(config) * steps for arm, steps in self.steps.items()}
        self.points: dict[Task, Point | None] = {}
        self.current: Task | None = None
        self.trained = 0  # steps of this session: what its speed is taken from
        self.start = time.monotonic()
        self.live = Live(console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def update(self, task: Task, point: Point | None) -> None:
        """Takes note of what a task already has, when it is met first, and of its evaluations."""
        known = task in self.points
        if known and point is not None:
            before = self.points[task]
            self.trained += point.step - (before.step if before else 0)
        self.points[task], self.current = point, task
        if self.console.is_terminal:
            self.live.update(self.view())
        elif known and point is not None and self.ended(task, point):
            self.console.print(self.line(task, point), soft_wrap=True, highlight=False)

    def ended(self, task: Task, point: Point) -> bool:
        return point.diverged or point.step == self.steps[task.arm]

    @property
    def ahead(self) -> tuple[int, int]:
        """Steps that are planned, and those of them still to be done; none after a divergence."""
        planned = remaining = 0
        for arm, steps in self.planned.items():
            points = [(task, point) for task, point in self.points.items() if task.arm == arm]
            steps = max(steps, len(points) * self.steps[arm])  # an extended grid has more runs
            planned, remaining = planned + steps, remaining + steps
            for task, point in points:
                if point is not None:
                    ended = self.ended(task, point)
                    remaining -= self.steps[arm] if ended else point.step
        return planned, remaining

    @property
    def share(self) -> float:
        """The part of all steps that is done."""
        planned, remaining = self.ahead
        return 1 - remaining / planned

    @property
    def left(self) -> str:
        """The time left, at the speed of this session so far."""
        remaining = self.ahead[1]
        if not remaining:
            return "done"
        if not self.trained:
            return "compiling" if self.current else "starting"
        seconds = (time.monotonic() - self.start) / self.trained * remaining
        return f"about {duration(seconds)} left"

    def line(self, task: Task, point: Point) -> str:
        loss = "diverged" if point.diverged else f"{self.config.metric} {self.loss(point):.4f}"
        return f"{self.share:4.0%}  {task.arm} {task.name}: {loss}  ({self.left})"

    def loss(self, point: Point) -> float:
        """The loss that the arms are compared by."""
        training = self.config.metric == "training loss"
        return point.train_loss if training else point.validation_loss

    def view(self) -> RenderableType:
        table = Table("arm", "now", "seeds", "mean loss", "paired gap", box=None, padding=(0, 2))
        for arm in self.config.arms:
            table.add_row(*self.row(arm))
        progress = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=self.share, width=40)
        progress.add_row(bar, f"{self.share:.0%}, {self.left}")
        return Group(table, progress)

    def row(self, arm: str) -> tuple[str, ...]:
        first_arm = next(iter(self.config.arms))
        final, first = self.finals(arm), self.finals(first_arm)
        gaps = [final[seed] - first[seed] for seed in final.keys() & first.keys()]
        return (
            arm,
            self.now(arm),
            f"{len(final)}/{self.config.seeds}",
            f"{fmean(final.values()):.4f}" if final else "",
            signed(fmean(gaps), 4) if gaps and arm != first_arm else "",
        )

    def finals(self, arm: str) -> dict[int, float]:
        """Final losses of an arm's reported runs, by seed."""
        return {
            task.seed: self.loss(point)
            for task, point in self.points.items()
            if (task.arm, task.purpose) == (arm, "report") and point and self.ended(task, point)
        }

    def now(self, arm: str) -> str:
        if self.current is None or self.current.arm != arm:
            return ""
        point = self.points[self.current]
        return f"{self.current.name}, step {point.step if point else 0}"
