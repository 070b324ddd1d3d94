"""A new plugin's package, ready to install, test and publish: `fercore plugin new`."""

from fercore.scaffold.package import new_plugin

__all__ = ["new_plugin"]
