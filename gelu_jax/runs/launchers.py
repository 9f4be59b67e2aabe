"""Launchers: what starts the workers, on this machine or on Slurm (by submitit), or on Ray."""

import json
import os
import shutil
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.nn import checks
from gelu_jax.runs.worker import Worker, work

_EXTRAS = {"local": ("submitit", "slurm"), "slurm": ("submitit", "slurm"), "ray": ("ray", "ray")}
_LONG = 10**6  # minutes: submitit ends a local worker after two unless told


@dataclass(frozen=True)
class Launch:
    """How many workers, by which launcher, and what each of them needs.

    Attributes:
      kind: "local" (submitit, on this machine), "slurm" (submitit) or "ray".
      workers: how many; as many as this machine has cores by default.
      resources: parameters of submitit's SlurmExecutor (``time`` in minutes, 60 by default), or
        options of ray.remote; for a local worker only ``gpus_per_node``, how many of this
        machine's GPUs it has for itself.

    Raises:
      ConfigError: the launcher is unknown or not installed, or does not know a resource.
    """

    kind: str
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self):
        known = self.kind in _EXTRAS
        check([] if known else [Problem("launcher", self.kind, nearest(self.kind, _EXTRAS))])
        check(checks.positive(workers=self.workers))
        package, extra = _EXTRAS[self.kind]
        if find_spec(package) is None:
            reason = f"needs {package}: pip install 'gelu-jax[{extra}]'"
            raise ConfigError([Problem("launcher", self.kind, reason)])
        if self.kind == "slurm" and shutil.which("srun") is None:
            raise ConfigError([Problem("launcher", "slurm", "srun is not on the PATH")])
        check(self._unknown_resources())

    def _unknown_resources(self) -> Iterator[Problem]:
        given = dict(self.resources)
        if self.kind == "local" and not all(
            key == "gpus_per_node" and isinstance(value, int) for key, value in given.items()
        ):
            yield Problem("resources", given, "may only hold gpus_per_node, a whole number")
        if self.kind == "slurm":
            try:
                _slurm(Path(), given)
            except (AssertionError, TypeError, ValueError) as error:
                yield Problem("resources", given, str(error).partition("\n")[0])


def launch(kind: str | None, workers: int | None, resources: Sequence[str]) -> Launch | None:
    """What the command line asks for.

    Args:
      kind: of launcher, or None.
      workers: how many, or None.
      resources: key=value.

    Returns:
      The launch; None if no launcher is asked for.

    Raises:
      ConfigError: as by `Launch`, and for workers or resources without a launcher.
    """
    given = {} if workers is None else {"workers": workers}
    if kind is not None:
        return Launch(kind, resources=parsed(resources), **given)
    wrong = {**given, "resources": tuple(resources)} if resources else given
    check(Problem(k, v, "needs --launcher local, slurm or ray") for k, v in wrong.items())
    return None


def parsed(resources: Sequence[str]) -> dict[str, Any]:
    """Reads ``key=value`` as Python values.

    Args:
      resources: as on the command line.

    Returns:
      Key → number, boolean, list or text.

    Raises:
      ConfigError: one of them has no "=".

    >>> parsed(["partition=gpu", "time=60"])
    {'partition': 'gpu', 'time': 60}
    """
    check(Problem("resources", each, "must be key=value") for each in resources if "=" not in each)
    return {key: _value(text) for key, _, text in (each.partition("=") for each in resources)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Jobs(Protocol):
    """Workers of one launcher."""

    def start(self, directory: Path, number: int) -> None:
        """Starts a worker.

        Args:
          directory: of the comparison.
          number: of the worker, from 0 on.
        """
        ...

    def ended(self) -> list[str]:
        """The last line that each worker printed which has ended, in the order of their ends."""
        ...

    def stop(self) -> None:
        """Stops the workers that are left."""
        ...


def jobs(launch: Launch, folder: Path) -> Jobs:
    """The workers that are asked for, none of them started yet.

    Args:
      launch: how many, and by which launcher.
      folder: for what they print.

    Returns:
      Something to start them with.
    """
    return (_Ray if launch.kind == "ray" else _Submitit)(launch, folder)


def _slurm(folder: Path, resources: Mapping[str, Any]) -> Any:
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder)
    executor.update_parameters(**{"job_name": "gelu-jax", "time": 60, **resources})
    return executor


def _local(folder: Path, gpus: int) -> Any:
    from submitit import LocalExecutor

    # each worker may use every core: with one core each they were 8 % faster and had other bits
    executor = LocalExecutor(folder)
    executor.update_parameters(timeout_min=_LONG, gpus_per_node=gpus)
    return executor


class _Submitit:
    """Processes of this machine, or jobs of Slurm; what they print is in ``workers/*.err``."""

    def __init__(self, launch: Launch, folder: Path):
        self._resources, local = launch.resources, launch.kind == "local"
        self._gpus = launch.resources.get("gpus_per_node", 0) if local else 0
        self._executor = _local(folder, self._gpus) if local else _slurm(folder, launch.resources)
        self._living: list[Any] = []
        self._ended: list[str] = []

    def start(self, directory: Path, number: int) -> None:
        if self._gpus:
            own = range(number * self._gpus, (number + 1) * self._gpus)
            self._executor.update_parameters(visible_gpus=list(own))
        try:
            with _children_ignore_signals():
                self._living.append(self._executor.submit(Worker(), directory))
        except RuntimeError as error:  # sbatch's own words
            reason = str(error).strip().rpartition("\n")[2]
            raise ConfigError([Problem("resources", dict(self._resources), reason)]) from None

    def ended(self) -> list[str]:
        for job in [job for job in self._living if job.done()]:
            self._living.remove(job)
            line = (job.stderr() or "").strip().rpartition("\n")[2]
            self._ended.append(f"{line or 'nothing printed'} ({job.paths.stderr})")
        return self._ended

    def stop(self) -> None:
        for job in self._living:
            if not job.done():
                job.cancel(check=False)


@contextmanager
def _children_ignore_signals() -> Generator[None]:
    """Processes started here ignore Ctrl-C and the end of the terminal, which are sent to all of
    them: the leader gets them, and they stop when it lets go."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ray:
    """Tasks of a Ray cluster: the one that RAY_ADDRESS names, or one of this machine alone."""

    def __init__(self, launch: Launch, folder: Path):
        self._ray: Any = import_module("ray")
        self._ray.init(log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        options = {"max_retries": 0, "num_cpus": 1, **launch.resources}
        self._work: Any = self._ray.remote(work).options(**options)
        self._living: list[Any] = []
        self._ended: list[str] = []

    def start(self, directory: Path, number: int) -> None:
        self._living.append(self._work.remote(directory))

    def ended(self) -> list[str]:
        if self._living:
            every = len(self._living)
            over, self._living = self._ray.wait(self._living, num_returns=every, timeout=0)
            self._ended += map(self._last_line, over)
        return self._ended

    def _last_line(self, job: Any) -> str:
        try:
            self._ray.get(job)
        except Exception as error:
            return str(error).strip().rpartition("\n")[2]
        return "nothing printed"

    def stop(self) -> None:
        for job in self._living:
            self._ray.cancel(job, force=True)
