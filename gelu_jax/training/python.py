"""Parts of a run that are a person's own: `kind: python`, and a factory that makes them."""

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

from gelu_jax.errors import ABSENT, ConfigError, Problem, check
from gelu_jax.importing import place_of, reference, resolve


@dataclass(frozen=True, kw_only=True)
class Python:
    """What `make` calls: a factory of the person's own, with arguments.

    Attributes:
      factory: ``module:function``, or from Python the function itself.
      arguments: of the factory, by name: numbers, text, booleans, lists and sections of them.
      kind: always "python".

    Raises:
      ConfigError: the factory cannot be imported, or does not take the arguments.
    """

    factory: str | Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kind: Literal["python"] = "python"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factory", reference(self.factory))  # its name is all that is kept
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        problems = list(callable_problems(factory=self.factory))
        yield from problems
        yield from _plain_problems("arguments", self.arguments)
        names = {} if problems else parameters(resolve(str(self.factory)))
        if names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
            for name in self.arguments.keys() - names.keys():
                reason = f"{self.factory} takes {', '.join(names) or 'nothing'}"
                yield Problem(f"arguments.{name}", self.arguments[name], reason)

    def takes(self, name: str) -> bool:
        """Whether the factory has a parameter.

        Args:
          name: of the parameter.

        Returns:
          True if it takes it by this name.
        """
        return name in parameters(resolve(str(self.factory)))

    def make(self, field: str, **offered: Any) -> Any:
        """Calls the factory.

        Args:
          field: the section of the config, for errors.
          **offered: what the factory is given where it has a parameter of that name.

        Returns:
          What the factory returns.

        Raises:
          ConfigError: the factory failed.
        """
        made = resolve(str(self.factory))
        with blamed(f"{field}.factory", self.factory):
            return made(**{**taken(made, **offered), **self.arguments})


def callable_problems(**fields: Any) -> Iterator[Problem]:
    """Checks that every reference leads to something that can be called.

    Args:
      **fields: references by field name; None passes.

    Yields:
      The problems found.
    """
    for name, value in fields.items():
        try:
            if value is not None and not callable(resolve(value)):
                yield Problem(name, value, "cannot be called")
        except ValueError as error:
            yield Problem(name, value, str(error))


def _plain_problems(name: str, value: Any) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        for key, part in cast(Mapping[str, Any], value).items():
            yield from _plain_problems(f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(cast(list[Any], value)):
            yield from _plain_problems(f"{name}[{index}]", part)
    elif not isinstance(value, str | int | float | bool | None):
        reason = "must be a number, text, a boolean, or a list or section of them"
        yield Problem(name, value, f"{reason}; functools.partial binds other values")


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function.

    Args:
      function: or a class, or anything else that can be called.

    Returns:
      Name → parameter, without ``self``; nothing where Python cannot tell.
    """
    if isinstance(function, partial) and isinstance(function.func, type):
        found = list(parameters(function.func).items())[len(function.args) :]
        return dict(found)
    try:
        if isinstance(function, type):  # flax's metaclass hides what a class takes
            _, *others = inspect.signature(function.__init__).parameters.items()
            return dict(others)
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def taken(function: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """Those of some values that a function has a parameter for.

    Args:
      function: what is to be called.
      **offered: the values by name.

    Returns:
      The values that it takes.

    >>> taken(lambda x, train: x, train=True, key=None)
    {'train': True}
    """
    names = parameters(function)
    return {name: value for name, value in offered.items() if name in names}


@contextmanager
def blamed(field: str, value: object) -> Generator[None]:
    """Turns what a person's own code raises into one line with the place in their file.

    Args:
      field: that named the code.
      value: of the field.

    Raises:
      ConfigError: instead of the exception, which is its cause.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or "no message"
        reason = f"{place_of(error)}{type(error).__name__}: {said}"
        raise ConfigError([Problem(field, value, reason)]) from error


def refuse(field: str, reason: str, value: object = ABSENT) -> ConfigError:
    """Makes the error of something that a factory made.

    Args:
      field: the section of the config.
      reason: what is wrong.
      value: what was made.

    Returns:
      The error.
    """
    return ConfigError([Problem(field, value, reason)])
