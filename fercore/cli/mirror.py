"""Commands whose arguments are those of a function of `fercore.api`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from typing import Any


def mirrors(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[[Callable[..., None]], Any]:
    """Give a command the arguments of a function, beside those it has itself.

    The function says which there are, their order, and what is taken where one is not given. The command is called with
    those that were given, by name and ready to hand on, and with its own by keyword.

    Args:
        function: of the API. options: argument -> how it is written on the command line, `Annotated` for typer. What is
            not among them the command line does not ask for.

    Raises:
        TypeError: for an option that the function does not take.
    """
    taken = signature(function).parameters
    if unknown := options.keys() - taken.keys():
        raise TypeError(f"{function.__name__} does not take {', '.join(sorted(unknown))}")
    shared = [_parameter(name, options[name], taken[name].default) for name in taken if name in options]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        beside = list(signature(command, eval_str=True).parameters.values())[1:]
        own = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in beside]

        def call(**values: Any) -> None:
            # What was not given is left to the function, whose own default it then has.
            given = {each.name: value for each in shared if (value := values.pop(each.name)) is not None}
            command(given, **values)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        # Typer reads both: the order and defaults from the one, the types from the other.
        call.__signature__ = Signature([*shared, *own])  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in (*shared, *own)}
        return call

    return decorate


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    # As it is written on the command line, for its help; an empty sequence is what a function takes for "none".
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
