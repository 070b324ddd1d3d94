"""The two pluggy markers, in a leaf module so that plugins import nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import pluggy

PROJECT = "fercore"
Function = TypeVar("Function", bound=Callable[..., Any])

hookimpl = pluggy.HookimplMarker(PROJECT)
_mark: Final = pluggy.HookspecMarker(PROJECT)


class HookDeprecationWarning(FutureWarning):
    """A plugin implements a hook, or takes an argument, that will go; the message says when, and what to do instead.

    A `FutureWarning`, not a `DeprecationWarning`: Python hides those outside `__main__`, and authors would not see it.
    """


def hookspec(
    *,
    since: str,
    firstresult: bool = False,
    deprecated: str | None = None,
    deprecated_arguments: Mapping[str, str] | None = None,
) -> Callable[[Function], Function]:
    """Mark a function as the spec of a hook.

    A hook or argument that is to go warns for two minor versions first: whoever implements or takes it gets a
    `HookDeprecationWarning` when the plugin is registered.

    Args:
        since: version that the hook came with. firstresult: the first answer that is not None is taken.
        deprecated: of the hook: "since 0.4, gone in 0.6: implement encode". deprecated_arguments: argument -> the same.
    """

    def mark(function: Function) -> Function:
        name = function.__name__
        warning = HookDeprecationWarning(f"hook {name!r} is deprecated {deprecated}") if deprecated else None
        arguments = {
            argument: HookDeprecationWarning(f"argument {argument!r} of hook {name!r} is deprecated {text}")
            for argument, text in (deprecated_arguments or {}).items()
        }
        marked = _mark(firstresult=firstresult, warn_on_impl=warning, warn_on_impl_args=arguments or None)(function)
        marked.fercore_since = since  # type: ignore[attr-defined]
        return marked

    return mark
