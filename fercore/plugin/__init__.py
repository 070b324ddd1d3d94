"""Everything a method's author imports, beside `fercore.losses`, `models`, `ops` and `retrieval`: re-exports alone.

    from fercore.plugin import LossTerm, Plugin, Role, Settings, hookimpl

    class MyMethod(Plugin):
        @hookimpl
        def loss(self, encoded, batch):
            ...

What stands in `__all__` is stable; every other module of the core may change. `docs/plugins.md` is the guide.
"""

from fercore.config import RunConfig, Settings, merge
from fercore.data.au import CODES, SCORES, refuse_without
from fercore.data.labels import CANONICAL
from fercore.data.side import SideInfo
from fercore.errors import UserInputError, did_you_mean
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.plans import optimiser_from, single_stage
from fercore.losses import reverse_gradient, to_float32
from fercore.models import Model, PseudoLabelRecord, SizedByData, build_classifier
from fercore.schedule import (
    CropAndColour,
    OptimiserSpec,
    ParamGroup,
    Phase,
    RunResult,
    Stage,
    StepReport,
    Transform,
    ViewRequest,
)
from fercore.task import BatchPolicy, DatasetInfo, TaskInfo
from fercore.types import (
    SIDES,
    Batch,
    Clock,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    PseudoLabels,
    Role,
    Side,
)

__all__ = [
    "CANONICAL",
    "CODES",
    "SCORES",
    "SIDES",
    "Batch",
    "BatchPolicy",
    "Clock",
    "CropAndColour",
    "DatasetInfo",
    "DomainBatch",
    "Encoded",
    "EncodedDataset",
    "Forward",
    "LossTerm",
    "Model",
    "OptimiserSpec",
    "ParamGroup",
    "Phase",
    "Plugin",
    "PseudoLabelRecord",
    "PseudoLabels",
    "Role",
    "RunConfig",
    "RunResult",
    "Settings",
    "Side",
    "SideInfo",
    "SizedByData",
    "Stage",
    "StepReport",
    "TaskInfo",
    "Transform",
    "UserInputError",
    "ViewRequest",
    "build_classifier",
    "did_you_mean",
    "hookimpl",
    "merge",
    "optimiser_from",
    "refuse_without",
    "reverse_gradient",
    "single_stage",
    "to_float32",
]
