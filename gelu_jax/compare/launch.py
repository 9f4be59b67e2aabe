"""Workers of a comparison: processes, here or on other machines, that train its runs.

The process that compares, the lead, says which runs are wanted; workers share nothing with it and
with each other but the directory:

    <directory>/workers/lead.lock       held by the lead; as soon as it is free, workers stop
    <directory>/workers/tasks.json      what is wanted: tasks, and the folders of their runs
    <directory>/workers/worker-*.lock   held by a worker as long as it lives
    <directory>/workers/worker-*.json   the versions and the device it trains with
    <run>/.claim                        held by the worker that does the run

The locks are the operating system's: they vanish with their holder, however it ends, and what a
killed worker had claimed another takes up at its last checkpoint. Between machines that takes a
shared file system which keeps such locks, NFSv4 or Lustre mounted with flock, say.
"""

import errno
import json
import os
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import jax
from filelock import FileLock, Timeout

from gelu_jax.compare.directory import is_free, workers_at
from gelu_jax.compare.experiment import CompareConfig, environment, prepare
from gelu_jax.compare.records import Run, replace_file
from gelu_jax.compare.runs import Task, Watch, code, folder, last_point, perform, read_run, until
from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.nn import checks
from gelu_jax.training.config import read_config
from gelu_jax.training.run import Trainer

_LOOK = 0.25  # seconds between two looks at the directory
_GRACE = 20.0  # seconds that workers have to stop by themselves
_EXTRAS = {"local": ("submitit", "slurm"), "slurm": ("submitit", "slurm"), "ray": ("ray", "ray")}
_LONG = 10**6  # minutes: submitit ends a local worker after two unless told


# --- What is launched -------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """How many workers, by which launcher, and what each asks for in the launcher's own words.

    ``kind`` is ``local`` (submitit, on this machine), ``slurm`` (submitit) or ``ray``; by default
    there are as many workers as this machine has cores. ``resources`` are parameters of submitit's
    SlurmExecutor (``time`` in minutes, 60 by default) or options of ray.remote; a local worker
    takes ``gpus_per_node``, that many of this machine's GPUs for itself.

    Raises ConfigError for an unknown launcher, and for one that is not installed.
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
            raise ConfigError([Problem("launcher", "slurm", "there is no srun on the PATH")])
        check(self._unknown_resources())

    def _unknown_resources(self) -> Iterator[Problem]:
        given = dict(self.resources)
        if self.kind == "local" and not all(
            key == "gpus_per_node" and isinstance(value, int) for key, value in given.items()
        ):
            yield Problem("resources", given, "only gpus_per_node, which is a whole number")
        if self.kind == "slurm":
            try:
                _slurm(Path(), given)
            except (AssertionError, TypeError, ValueError) as error:
                yield Problem("resources", given, str(error).partition("\n")[0])


def launch(kind: str | None, workers: int | None, resources: Sequence[str]) -> Launch | None:
    """What the command line asks for; None where it asks for no workers."""
    given = {} if workers is None else {"workers": workers}
    if kind is not None:
        return Launch(kind, resources=parsed(resources), **given)
    wrong = {**given, "resources": tuple(resources)} if resources else given
    check(Problem(k, v, "needs a launcher; nearest: --launcher local") for k, v in wrong.items())
    return None


def parsed(resources: Sequence[str]) -> dict[str, Any]:
    """``key=value`` as Python values.

    >>> parsed(["partition=gpu", "time=60"])
    {'partition': 'gpu', 'time': 60}
    """
    check(
        Problem("resources", each, "should be key=value") for each in resources if "=" not in each
    )
    return {key: _value(text) for key, _, text in (each.partition("=") for each in resources)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- A worker ---------------------------------------------------------------------------------


class Worker:
    """What a launcher runs; submitit queues it again when a cluster ends it before its time."""

    def __call__(self, directory: Path) -> None:
        if _led(directory):
            with suppress(KeyboardInterrupt), _present(directory):
                _work(directory)

    def checkpoint(self, directory: Path) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, directory)


def begin(directory: Path) -> None:
    """A worker as a function, which is what Ray takes."""
    Worker()(directory)


def _led(directory: Path) -> bool:
    lead = directory / "workers" / "lead.lock"
    return lead.exists() and not is_free(lead)


@contextmanager
def _present(directory: Path) -> Generator[None]:
    """Says what this worker is, and that it lives."""
    me = directory / "workers" / f"worker-{socket.gethostname()}-{os.getpid()}.json"
    with FileLock(me.with_suffix(".lock")):
        what = {"code": code(), "environment": environment(), "pid": os.getpid()}
        replace_file(me, json.dumps(what))
        yield


def _work(directory: Path) -> None:
    """Does what is wanted and neither done nor claimed, until there is no lead."""
    _share_programs(directory)
    trainers = prepare(read_config(directory / "config.yaml", CompareConfig))
    done = set[Task]()
    while _led(directory):
        for task, home in _wanted(directory).items():
            if task not in done and _attempt(trainers[task.arm], task, directory, home):
                done.add(task)
        time.sleep(_LOOK)


def _share_programs(directory: Path) -> None:
    """What one worker has compiled, the others of its machine read (machines differ in CPUs)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = directory / "workers" / "compiled" / socket.gethostname()
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _attempt(trainer: Trainer, task: Task, directory: Path, home: Path) -> bool:
    """Does a run unless another worker is at it; whether it is done."""
    if folder(trainer, task, directory) != home:
        raise SystemExit(f"{home}: another version of gelu_jax or jax, or another kind of device")

    def watch(task: Task, run: Run) -> None:
        if not _led(directory):
            raise KeyboardInterrupt

    try:
        with FileLock(home / ".claim", timeout=0):
            for half in home.glob(".*.*"):  # what a killed worker was writing
                half.unlink()
            perform(trainer, task, directory, watch)
    except Timeout:
        return False
    return True


def _wanted(directory: Path) -> dict[Task, Path]:
    try:
        tasks = json.loads((directory / "workers" / "tasks.json").read_bytes())
    except FileNotFoundError:  # the lead has not said yet
        return {}
    return {Task(**task): directory / "runs" / home for home, task in tasks.items()}


# --- The lead ---------------------------------------------------------------------------------


class Crew:
    """The workers of a comparison, as its lead has them do the runs; hand it to `compare`.

    ``watch`` is called as by `perform`, from what the workers write. Use it as a context, which the
    workers do not outlive but for the training up to their next evaluation.
    """

    def __init__(
        self, launch: Launch, directory: Path, trainers: Mapping[str, Trainer], watch: Watch
    ):
        self.launch, self.trainers, self.watch = launch, trainers, watch
        self.directory = directory.resolve()
        self.folder = self.directory / "workers"
        self._lead = FileLock(self.folder / "lead.lock")
        self._jobs: Jobs | None = None
        self._told = 0  # workers that have ended and been reported
        self._what: dict[str, Any] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._lead.release()
        _wait_while(lambda: bool(workers_at(self.directory)), _GRACE)
        if (jobs := self._jobs) is not None:
            jobs.stop()
            _wait_while(lambda: len(jobs.ended()) < self.launch.workers, _GRACE / 4)
        if kind is None:  # else somebody may want to read what they said
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """That of the first worker, and how many there were."""
        return self._what["environment"] | {
            "runs": f"by {self.launch.workers} workers ({self.launch.kind})"
        }

    def perform(self, tasks: Sequence[Task]) -> list[Run]:
        """The records of some tasks, once workers have done them.

        Raises ChildProcessError when no worker is left.
        """
        self._start()
        homes = {
            task: folder(self.trainers[task.arm], task, self.directory, self._what["code"])
            for task in tasks
        }
        seen = {task: _Record(home / "run.json") for task, home in homes.items()}
        for task, record in seen.items():
            if record.changed() and record.run is not None:
                self.watch(task, record.run)
        self._want(homes)
        while not all(record.ended for record in seen.values()):
            time.sleep(_LOOK)
            self._check_workers()
            for task, record in seen.items():
                self._follow(task, record)
        return [record.run for record in seen.values() if record.run is not None]

    def _start(self) -> None:
        """Starts the workers, once, and learns what they are."""
        if self._jobs is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lead.acquire()
        self._jobs = _jobs(self.launch, self.folder)
        for number in range(self.launch.workers):
            self._jobs.start(self.directory, number)
        while not (said := sorted(self.folder.glob("worker-*.json"))):
            time.sleep(_LOOK)
            self._check_workers()
        self._what = json.loads(said[0].read_bytes())

    def _want(self, homes: Mapping[Task, Path]) -> None:
        runs = self.directory / "runs"
        tasks = {home.relative_to(runs).as_posix(): vars(task) for task, home in homes.items()}
        replace_file(self.folder / "tasks.json", json.dumps(tasks))

    def _follow(self, task: Task, record: "_Record") -> None:
        """Calls `watch` with what is new; at the last evaluation once the run is closed as well."""
        known = record.run
        if record.changed() and record.run is not None:
            if known is None:
                self.watch(task, until(record.run, -1))
            if record.ended or not _is_last(record.run, self.trainers[task.arm].config.steps):
                self.watch(task, record.run)

    def _check_workers(self) -> None:
        assert self._jobs is not None
        ended = self._jobs.ended()
        for words in ended[self._told :]:
            warnings.warn(f"a worker ended: {words}", stacklevel=2)
        self._told = len(ended)
        if len(ended) == self.launch.workers:
            reason = "no worker is left; the same command goes on from here"
            raise ChildProcessError(errno.ECHILD, reason, str(self.folder))


def _wait_while(busy: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and busy():
        time.sleep(_LOOK)


@dataclass
class _Record:
    """A run's record on disk, read again when it has been written again."""

    path: Path
    run: Run | None = None
    written: int = 0

    @property
    def ended(self) -> bool:
        return self.run is not None and self.run.status != "interrupted"

    def changed(self) -> bool:
        """Whether there is something new to read, which then has been read."""
        with suppress(FileNotFoundError):
            written = self.path.stat().st_mtime_ns
            if written != self.written:
                self.written, self.run = written, read_run(self.path)
                return True
        return False


def _is_last(run: Run, steps: int) -> bool:
    point = last_point(run)
    return point is not None and (point.diverged or point.step == steps)


# --- Launchers --------------------------------------------------------------------------------


class Jobs(Protocol):
    """Workers of one launcher."""

    def start(self, directory: Path, number: int) -> None: ...
    def ended(self) -> list[str]:
        """The last words of each worker that has ended, in the order of their ends."""
        ...

    def stop(self) -> None: ...


def _jobs(launch: Launch, folder: Path) -> Jobs:
    return (_Ray if launch.kind == "ray" else _Submitit)(launch, folder)


def _slurm(folder: Path, resources: Mapping[str, Any]) -> Any:
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder)
    executor.update_parameters(**{"job_name": "gelu-jax", "time": 60, **resources})
    return executor


def _local(folder: Path, gpus: int) -> Any:
    from submitit import LocalExecutor

    executor = LocalExecutor(folder)
    executor.update_parameters(timeout_min=_LONG, gpus_per_node=gpus)
    return executor


class _Submitit:
    """Processes of this machine, or jobs of Slurm; what they print stands in ``workers/*.err``."""

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
            with _deaf_children():
                self._living.append(self._executor.submit(Worker(), directory))
        except RuntimeError as error:  # sbatch's own words
            reason = str(error).strip().rpartition("\n")[2]
            raise ConfigError([Problem("resources", dict(self._resources), reason)]) from None

    def ended(self) -> list[str]:
        for job in [job for job in self._living if job.done()]:
            self._living.remove(job)
            words = (job.stderr() or "").strip().rpartition("\n")[2]
            self._ended.append(f"{words or 'without a word'} ({job.paths.stderr})")
        return self._ended

    def stop(self) -> None:
        for job in self._living:
            if not job.done():
                job.cancel(check=False)


@contextmanager
def _deaf_children() -> Generator[None]:
    """Processes started here do not hear Ctrl-C, which a terminal sends to all: the lead does, and
    they stop in their own time."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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
        self._work: Any = self._ray.remote(begin).options(**options)
        self._living: list[Any] = []
        self._ended: list[str] = []

    def start(self, directory: Path, number: int) -> None:
        self._living.append(self._work.remote(directory))

    def ended(self) -> list[str]:
        if self._living:
            every = len(self._living)
            over, self._living = self._ray.wait(self._living, num_returns=every, timeout=0)
            self._ended += map(self._last_words, over)
        return self._ended

    def _last_words(self, job: Any) -> str:
        try:
            self._ray.get(job)
        except Exception as error:
            return str(error).strip().rpartition("\n")[2]
        return "without a word"

    def stop(self) -> None:
        for job in self._living:
            self._ray.cancel(job, force=True)
