"""A folder for the Hugging Face hub: weights, what rebuilds the network, and a model card filled from the run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fercore.config import DataSettings, check_settings
from fercore.data.spec import DomainSpec
from fercore.documents import parse_json
from fercore.engine.model_record import RECORD, WEIGHTS, ModelRecord, find_model
from fercore.errors import UserInputError
from fercore.export.check import Bound, Check, Exported, compare, read_sample, refuse_worse
from fercore.export.origin import describe, render
from fercore.files import open_regular, read_text
from fercore.hooks.guard import open_data, unplaced
from fercore.models import External
from fercore.prediction.predictor import load_predictor
from fercore.runs.folder import RunFolder
from fercore.writing import is_unused, make_parents, whole, whole_folder, write_json, write_sums, write_text

CARD, CONFIG = "README.md", "config.json"
SAME: Final = Bound(difference=0.0, agreement=1.0)


def export_hub(model: Path, out: Path, data: DomainSpec | None) -> Exported:
    """Write a folder that `fercore.load` reads, here or from the hub, and that names no place of this machine.

    Args:
        model: a run folder, whose scores go into the card, or the `model/` in it. out: a new or empty folder.
        data: the images that it is compared on; None = generated faces.

    Raises:
        UserInputError: if the model cannot be used, `data` cannot be read, or the folder cannot be written.
    """
    if not is_unused(out):
        raise UserInputError("output folder exists", where=str(out), fix="choose another --out")
    make_parents(out)
    begin = time.perf_counter()
    folder, predictor = find_model(model), load_predictor(model, device="cpu")
    # They stay where they are, often gigabytes under terms of their own; the card says which they are.
    frozen = [module.identity for module in predictor.modules() if isinstance(module, External)]
    given = parse_json(read_text(folder / RECORD), where=str(folder / RECORD))
    record = ModelRecord.model_validate(_without_places(given))
    about = describe(record, folder)
    with whole_folder(out, RECORD) as draft:
        with whole(draft / WEIGHTS) as file, open_regular(folder / WEIGHTS) as weights:
            shutil.copyfileobj(weights, file)
        write_json(draft / RECORD, record.model_dump(by_alias=True))
        write_json(draft / CONFIG, _config(record, about))
        target = _scores(folder)
        card = render(
            "card.md", name=out.absolute().name, record=record, about=about, target=target,
            labelled=target["labelled"]["n"] if target else 0,
            external=[", ".join(f"{key} {value}" for key, value in identity.items()) for identity in frozen],
        )  # fmt: skip
        write_text(draft / CARD, card)
        write_sums(draft, (WEIGHTS, RECORD, CONFIG, CARD))
        # Read back from the draft: what differs is refused before the folder has its name.
        sample = read_sample(predictor, data)
        again = sample.predicted(load_predictor(draft, device="cpu"))
        difference, agreement = compare(again, sample.predicted(predictor))
        measured = Check(sample.data, len(sample), difference, agreement)
        refuse_worse(measured, SAME, "hub")
    size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    usage = tuple(render("hub.py", path=str(out)).splitlines())
    return Exported(out, "folder for the Hugging Face hub", size, time.perf_counter() - begin, measured, usage)


def _config(record: ModelRecord, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json, as the hub and its tools know it."""
    names = dict(enumerate(record.classes))
    return {
        "library_name": "fercore",
        "model_type": "fercore",
        "architectures": [plugin.name for plugin in record.plugins],
        "image_size": record.images.size,
        "num_channels": 3,
        "id2label": names,
        "label2id": {name: k for k, name in names.items()},
        "fercore": dict(about),
    }


def _without_places(record: dict[str, Any]) -> dict[str, Any]:
    """Return model.json without the paths of datasets and of weights that training began from."""
    settings, origin = record["settings"], record["provenance"]
    network, domains = settings["model"], ModelRecord.model_validate(record).provenance
    hidden = open_data(check_settings(DataSettings, settings["data"], prefix="data")).model_dump(mode="json")
    settings.get("report", {}).pop("reference", None)
    settings["data"] |= {name: hidden[name] for name in ("sources", "target", "au", "cache_dir")}
    if network.get("weights", "none") not in ("none", "timm"):
        network["weights"] = Path(network["weights"]).name
    pairs = zip((*origin["sources"], origin["target"]), (*domains.sources, domains.target), strict=True)
    for written, domain in pairs:
        written["spec"] = unplaced(domain.spec).text
    return record


def _scores(folder: Path) -> dict[str, Any] | None:
    """Return what the run's result.json says of the target; None where the model folder is not in its run's."""
    run = RunFolder(folder.parent)
    if not run.finished:
        return None
    target: dict[str, Any] = run.result().to_json()["target"]
    return target
