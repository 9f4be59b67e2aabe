"""Training and comparing from Python, in one call: a person's own models, data and optimizers.

What `gelu-jax train` and `gelu-jax compare` do with a config file, these do with functions: runs
are kept on disk and resumed, arms matched and tuned, and a report written.
`pip install 'gelu-jax[lab]'`.
"""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gelu_jax.cli.session import claimed, progress
from gelu_jax.compare import experiment
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.records import Comparison, write_results
from gelu_jax.importing import reference
from gelu_jax.report.verdict import verdict
from gelu_jax.report.write import write_report
from gelu_jax.runs.environment import environment
from gelu_jax.runs.execution import find_model, load_model
from gelu_jax.runs.identity import command_to_repeat, write_identity
from gelu_jax.runs.training import train as do_run
from gelu_jax.training.data import DataConfig, PythonData, load_data
from gelu_jax.training.model import ModelConfig
from gelu_jax.training.optimizer import Optimizer, OptimizerConfig, PythonOptimizer
from gelu_jax.training.python_model import PythonModel
from gelu_jax.training.trainer import TrainConfig, Trainer


@dataclass(frozen=True, repr=False)
class Result:
    """What a training or a comparison gave; a notebook shows its verdict and its curves.

    Attributes:
      comparison: the record, with every run; of a training, its only arm is called "model".
      directory: where everything is written.
      files: the parts of the report.
    """

    comparison: Comparison
    directory: Path
    files: tuple[Path, ...]

    @property
    def verdict(self) -> str:
        """What the runs show, in words."""
        return str(verdict(analyze(self.comparison)))

    def model(self, arm: str | None = None, *, best: bool = False) -> Any:
        """Loads a trained model.

        Args:
          arm: whose; None takes the first arm.
          best: the state with the lowest validation loss, which `keep_best` keeps.

        Returns:
          The model of the first reported seed: an NNX module, or a `Network` of another kind.
        """
        loaded = load_model(find_model(self.directory, arm), best=best)
        return getattr(loaded, "module", None) or loaded

    def __repr__(self) -> str:
        return "\n".join([self.verdict, *map(str, self.files)])

    def _repr_html_(self) -> str:
        curves = next((path for path in self.files if path.suffix == ".png"), None)
        picture = base64.b64encode(curves.read_bytes()).decode() if curves else ""
        shown = f'<img width="700" src="data:image/png;base64,{picture}">' if picture else ""
        report = next((path for path in self.files if path.suffix == ".html"), self.directory)
        return f"<pre>{html.escape(self.verdict)}</pre>{shown}<p>{html.escape(str(report))}</p>"


def compare(
    arms: Mapping[str, Callable[..., Any] | Mapping[str, Any]],
    data: Any,
    *,
    steps: int,
    batch_size: int,
    directory: str | Path,
    eval_every: int | None = None,
    optimizer: Optimizer | Callable[..., Any] | None = None,
    learning_rates: Sequence[float] = (),
    loss: Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    width: str | None = None,
    seeds: int = 8,
    overwrite: bool = False,
    **options: Any,
) -> Result:
    """Compares models of a person's own over seeds and learning rates, and writes a report.

    The same call resumes, whatever stopped it; what has been done is read from the directory.

    Args:
      arms: name → what makes the model, as `PythonModel.factory`; or changes to the first arm's
        config, as dotted path → value. The first arm is what the others are compared with.
      data: ``((inputs, targets), (inputs, targets))``, arrays to train on and to validate with; or
        a function that returns what `PythonData` takes; or one of our sources, such as `Digits`.
      steps: of each run.
      batch_size: examples in a step.
      directory: where everything is written.
      eval_every: steps between evaluations; by default about a twentieth of all.
      optimizer: a config, or a function as `PythonOptimizer.factory`; AdamW by default.
      learning_rates: each arm takes the best of these; with none or one there is no tuning.
      loss: as `PythonModel.loss`; by default the cross-entropy of integer targets.
      arguments: of the factories.
      width: the argument that is matched for equal parameters; None leaves the models as they are.
      seeds: how many runs each arm has.
      overwrite: deletes another comparison that stands in the directory.
      **options: other fields of `CompareConfig`, such as `description` or `match`.

    Returns:
      The verdict, the record, and the files.

    Raises:
      ConfigError: with a line for everything that is wrong.
      OSError: the disk is full or not writable.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    first = next(iter(arms.values()))
    if not callable(first):
        raise TypeError("the first arm must be a function that makes its model")
    model = _model(first, arguments, loss, width)
    run = _run(model, data, steps, batch_size, eval_every, optimizer, learning_rates)
    config = CompareConfig(
        run=run,
        arms={name: _changes(arm, first) for name, arm in arms.items()},
        seeds=seeds,
        learning_rates=tuple(learning_rates),
        **options,
    )
    home = Path(directory)
    trainers = experiment.prepare(config)
    with claimed(home, config, trainers, overwrite=overwrite):
        write_identity(home, trainers)
        with progress(config, ()) as callback:
            found = experiment.compare(config, home, callback, trainers)
        return Result(found, home, tuple(write_report(found, home)))


def train(
    model: Callable[..., Any] | ModelConfig,
    data: Any,
    *,
    steps: int,
    batch_size: int,
    directory: str | Path,
    eval_every: int | None = None,
    optimizer: Optimizer | Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Result:
    """Trains a model of a person's own, and writes a report.

    Args:
      model: what makes it, as `PythonModel.factory`, or one of our configs.
      data: as by `compare`.
      steps: of the run.
      batch_size: examples in a step.
      directory: where everything is written.
      eval_every: steps between evaluations; by default about a twentieth of all.
      optimizer: as by `compare`.
      loss: as `PythonModel.loss`; by default the cross-entropy of integer targets.
      arguments: of the factory.
      overwrite: deletes another training that stands in the directory.
      **options: other fields of `TrainConfig`, such as `seed` or `checkpoint_every`.

    Returns:
      The verdict, the record, and the files; ``result.model()`` is the trained model.

    Raises:
      ConfigError: with a line for everything that is wrong.
      OSError: the disk is full or not writable.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    made = _model(model, arguments, loss, None) if callable(model) else model
    run = _run(made, data, steps, batch_size, eval_every, optimizer, (), **options)
    home, name = Path(directory), "model"
    trainer = Trainer(run, load_data(run.data, run.batch_size))
    with claimed(home, run, {name: trainer}, overwrite=overwrite):
        write_identity(home, {name: trainer})
        alone = CompareConfig(run=run, arms={name: {}}, seeds=1)
        with progress(alone, ()) as callback:
            done = do_run(trainer, name, home, callback)
        where = environment() | {"runs": "one after another, in one process"}
        command = command_to_repeat("train", home, run)
        found = experiment.record(home.name, alone, {name: trainer}, [done], where, command)
        write_results(found, home)
        return Result(found, home, tuple(write_report(found, home)))


def _model(factory: Any, arguments: Any, loss: Any, width: str | None) -> PythonModel:
    return PythonModel(factory=factory, arguments=dict(arguments or {}), loss=loss, width=width)


def _changes(arm: Any, first: Any) -> Mapping[str, Any]:
    if not callable(arm):
        return cast(Mapping[str, Any], arm)
    return {} if arm is first else {"model.factory": reference(arm)}


def _run(
    model: ModelConfig,
    data: Any,
    steps: int,
    batch_size: int,
    eval_every: int | None,
    optimizer: Any,
    learning_rates: Sequence[float],
    **options: Any,
) -> TrainConfig:
    if eval_every is None:
        eval_every = max(n for n in range(1, max(1, steps // 20) + 1) if steps % n == 0)
    rates: dict[str, Any] = {"learning_rate": learning_rates[0]} if learning_rates else {}
    if callable(optimizer):
        optimizer = PythonOptimizer(factory=optimizer, **rates)
    return TrainConfig(
        data=_data(data),
        model=model,
        steps=steps,
        batch_size=batch_size,
        eval_every=eval_every,
        optimizer=optimizer or OptimizerConfig(**rates),
        **options,
    )


def _data(data: Any) -> DataConfig:
    def arrays() -> Any:
        return data

    if isinstance(data, tuple):
        return PythonData(factory=arrays)
    return PythonData(factory=data) if callable(data) else data
