"""Everything a method's author imports, beside `fercore.losses`, `models`, `ops` and `retrieval`: re-exports alone.

    from fercore.plugin import LossTerm, Plugin, Role, Settings, hookimpl

    class MyMethod(Plugin):
        @hookimpl
        def loss(self, encoded, batch):
            ...

What stands in `__all__` is stable; every other module of the core may change. `docs/plugins.md` is the guide.
"""

from fercore.au import CODES, SCORES, refuse_without
from fercore.config import RunConfig, Settings, merge
from fercore.data.domains.dataset_info import SideInfo
from fercore.data.formats.reading.scan import Rows, Scan
from fercore.data.images.readers import FileReader
from fercore.data.images.views import weak_view
from fercore.data.labels import CANONICAL
from fercore.data.noise import key as noise_key
from fercore.data.noise import permutation, uniforms
from fercore.data.spec import DomainSpec, Format, parse_spec
from fercore.datasets.in_memory import LabelledImages, read_labelled
from fercore.errors import UserInputError, did_you_mean
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.plans import optimiser_from, single_stage, two_stages
from fercore.losses import reverse_gradient, to_float32
from fercore.models import Model, PseudoLabelRecord, SizedByData, build_classifier
from fercore.progress import watch
from fercore.records.outputs import FinishedRun, Outputs, Samples
from fercore.records.plan import (
    Closure,
    CropAndColour,
    OptimiserSpec,
    ParamGroup,
    Phase,
    Reset,
    RunResult,
    Stage,
    StepLoss,
    StepReport,
    Transform,
    ViewRequest,
)
from fercore.records.step import (
    SIDES,
    Batch,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Purpose,
    Role,
    Side,
)
from fercore.records.task import BatchPolicy, DatasetInfo, TaskInfo
from fercore.terminal import say
from fercore.writing import refuse_taken, write_tensors

__all__ = [
    "CANONICAL",
    "CODES",
    "SCORES",
    "SIDES",
    "Batch",
    "BatchPolicy",
    "Closure",
    "CropAndColour",
    "DatasetInfo",
    "DomainBatch",
    "DomainSpec",
    "Encoded",
    "EncodedDataset",
    "FileReader",
    "FinishedRun",
    "Format",
    "Forward",
    "LabelledImages",
    "LossTerm",
    "Model",
    "OptimiserSpec",
    "Outputs",
    "ParamGroup",
    "Phase",
    "Plugin",
    "Progress",
    "PseudoLabelRecord",
    "PseudoLabels",
    "Purpose",
    "Reset",
    "Role",
    "Rows",
    "RunConfig",
    "RunResult",
    "Samples",
    "Scan",
    "Settings",
    "Side",
    "SideInfo",
    "SizedByData",
    "Stage",
    "StepLoss",
    "StepReport",
    "TaskInfo",
    "Transform",
    "UserInputError",
    "ViewRequest",
    "build_classifier",
    "did_you_mean",
    "hookimpl",
    "merge",
    "noise_key",
    "optimiser_from",
    "parse_spec",
    "permutation",
    "read_labelled",
    "refuse_taken",
    "refuse_without",
    "reverse_gradient",
    "say",
    "single_stage",
    "to_float32",
    "two_stages",
    "uniforms",
    "watch",
    "weak_view",
    "write_tensors",
]
