"""Plugin interface. A method is a package that subclasses `Plugin` and implements hooks with `hookimpl`.

    from fercore.hooks import Plugin, hookimpl

    class MyMethod(Plugin):
        @hookimpl
        def loss(self, encoded, batch):
            ...

and its pyproject.toml says:

    [project.entry-points."fercore.plugins"]
    my_method = "my_package.plugin:MyMethod"

`fercore run --plugin my_method` then finds it by name. The hooks are described in `fercore.hooks.specs`.
"""

from fercore.hooks.markers import hookimpl
from fercore.hooks.plugin import Plugin

__all__ = ["Plugin", "hookimpl"]
