"""The network: a backbone, branches with heads, and the parts plugins attach."""

from fercore.models.backbones import Trunk, build_backbone, build_trunk
from fercore.models.model import Model

__all__ = ["Model", "Trunk", "build_backbone", "build_trunk"]
