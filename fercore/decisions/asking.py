"""Which images to label so that few labels settle which model is better, and a page to label them on."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fercore.config import DataSettings, Device, check_settings
from fercore.data.domains.load import read_chosen
from fercore.data.spec import DomainSpec
from fercore.decisions.judging import ASKED, NONE_OF_THEM, Asked, Compared, Sampling, compared, known_labels
from fercore.documents import CsvWriter
from fercore.errors import UserInputError
from fercore.evaluation import consensus
from fercore.evaluation.verdict import FEWEST
from fercore.runs.folder import RunFolder
from fercore.terminal import counted
from fercore.writing import is_unused, make_parents, whole, whole_folder, write_json, write_text

PAGE, TEMPLATE = "page.html", "labels.csv"


def ask(
    models: Sequence[Path],
    out: Path,
    *,
    n: int,
    target: DomainSpec | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    labels: Sequence[Path] = (),
    device: Device = "auto",
) -> Asked:
    """Draw images on which models disagree, and write a page to label them on, a CSV template, and how they were drawn.

    Args:
        models: the reference first. out: a new folder. n: labels. target: as `compared` takes it. seed: of the drawing.
        sampling: None = with equal chances for two models, by consensus for more. labels: CSVs of earlier rounds, whose
            images are not asked for again and by whose labels "consensus" goes.

    Raises:
        UserInputError: for wrong input, or a folder that is taken. WriteError: if it cannot be written.
    """
    sampling = sampling or ("equal" if len(models) == 2 else "consensus")
    if labels and sampling == "equal":
        what = "labels of earlier rounds go with --sampling consensus: equal chances do not learn from them"
        raise UserInputError(what, where="ask", fix="leave --labels out, and ask for more with a larger --n")
    if len(models) < 2:
        raise UserInputError("one model: nothing to compare", where="ask", fix="give the reference and another one")
    if not is_unused(out):
        raise UserInputError("output folder is not empty", where=str(out), fix="choose another --out")
    comparison = compared(models, target, device)
    apart = several_answers(comparison)
    known = known_labels(labels, comparison.images, comparison.classes)[1]
    if sampling == "equal":
        drawn = draw(apart, comparison.probs, n, seed)
    elif not (drawn := consensus.choose(np.stack(comparison.probs), n, seed, known)):
        raise UserInputError("every image with several answers has a label", where="ask", fix="there is no more to ask")
    asked = Asked(
        schema_version=1,
        images=[comparison.images[at] for at in drawn],
        classes=list(comparison.classes),
        models=[str(path) for path in models],
        target=target,
        n=len(comparison.images),
        disagreements=len(apart),
        seed=seed,
        sampling=sampling,
    )
    pictures = _pictures(asked.images, target or _target_of(models[0]))
    make_parents(out)
    with whole_folder(out, ASKED) as draft:
        write_text(draft / PAGE, page(asked, pictures))
        with whole(draft / TEMPLATE, "w") as handle:
            writer = CsvWriter(handle)
            writer.writerow(["image", "label"])
            for image in asked.images:
                writer.writerow([image, ""])
        write_json(draft / ASKED, asked.model_dump())
    return asked


def several_answers(comparison: Compared) -> np.ndarray:
    """Return int64[d], the images on which any two models disagree.

    Raises:
        UserInputError: for too few images, or none of them.
    """
    if len(comparison.images) < FEWEST:
        what = f"{counted(len(comparison.images), 'image')}: too few to say anything"
        raise UserInputError(what, where="ask", fix=f"give {FEWEST} or more")
    votes = np.array([probs.argmax(axis=1) for probs in comparison.probs])
    apart = np.flatnonzero((votes != votes[0]).any(axis=0))
    if not len(apart):
        raise UserInputError("no disagreement: the same model", where="ask", fix="there is nothing to settle")
    return apart


def draw(apart: np.ndarray, probs: Sequence[np.ndarray], n: int, seed: int) -> list[int]:
    """Return at most n of the disagreements, each with the same chance, balanced by the answers, in random order.

    A systematic sample: the images lie in the order of their answers, and every k-th is taken from a random start.
    Equal chances leave the mean over the labelled ones unbiased; the random order lets labelling stop at any time.
    """
    rng = np.random.default_rng(seed)
    votes = np.array([each[apart].argmax(axis=1) for each in probs])
    shuffled = rng.permutation(len(apart))
    ordered = shuffled[np.lexsort(votes[:, shuffled][::-1])]
    n = min(n, len(apart))
    places = ((np.arange(n) + rng.random()) * len(apart) / n).astype(np.int64)
    return [int(at) for at in rng.permutation(apart[ordered[places]])]


def _target_of(run: Path) -> DomainSpec:
    try:
        return check_settings(DataSettings, RunFolder(run).config_layers()["data"], prefix="data").target
    except KeyError:
        fix = "give --target SPEC"
        raise UserInputError("the run does not say what its target is", where=str(run), fix=fix) from None


def _pictures(images: Sequence[str], target: DomainSpec) -> list[str]:
    """Return the images as data URLs."""
    from PIL import Image

    table, _ = read_chosen(target)
    row = {key: at for at, key in enumerate(table.keys)}
    if strange := [image for image in images if image not in row]:
        what = f"image {strange[0]!r} is not in the target"
        raise UserInputError(what, where=target.text, fix="give the --target whose images the models were compared on")
    urls = []
    for pixels in table.read_many([row[image] for image in images]):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


def page(asked: Asked, pictures: Sequence[str]) -> str:
    """Return one HTML file without anything from outside: an image at a time, a key for each class, and the CSV.

    What the models say of an image is not in it, so that nobody labels by it.
    """
    values = {"images": asked.images, "pictures": list(pictures), "classes": [*asked.classes, NONE_OF_THEM]}
    data = json.dumps(values).replace("<", "\\u003c")
    return _PAGE.replace("@DATA@", data)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Labels</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body { font: 16px sans-serif; max-width: 40em; margin: 2em auto; text-align: center }
img { width: 20em; height: 20em; object-fit: contain; image-rendering: pixelated; background: #eee }
button { font: inherit; margin: .2em; padding: .4em .8em }
button.chosen { outline: 3px solid }
</style>
<p id="where" aria-live="polite"></p>
<img id="face" alt="face to label">
<p id="keys"></p>
<p><button id="back">&larr; back</button> <button id="next">later &rarr;</button>
<button id="save">save labels.csv</button></p>
<p>Keys: the number of a class, arrow keys, S to save. Stopping early is fine; what is left empty is not given.</p>
<script>
const data = @DATA@;
const given = {};
let at = 0;
const $ = id => document.getElementById(id);
const cell = text => {
  const safe = /^'*[=+\\-@\\t\\r\\n\\uff1d\\uff0b\\uff0d\\uff20]/.test(text) ? "'" + text : text;
  return /[",\\r\\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
};
const csv = () => "image,label\\n" + data.images.map(i => cell(i) + "," + (given[i] ?? "") + "\\n").join("");
const show = () => {
  $("face").src = data.pictures[at];
  $("where").textContent = `${at + 1} of ${data.images.length}, ${Object.keys(given).length} labelled`;
  for (const button of $("keys").children)
    button.className = given[data.images[at]] === button.dataset.name ? "chosen" : "";
};
const move = by => { at = Math.min(Math.max(at + by, 0), data.images.length - 1); show(); };
const label = name => { given[data.images[at]] = name; move(1); };
const save = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
};
data.classes.forEach((name, number) => {
  const button = document.createElement("button");
  button.dataset.name = name;
  button.textContent = `${(number + 1) % 10} ${name}`;
  button.onclick = () => label(name);
  $("keys").append(button);
});
$("back").onclick = () => move(-1);
$("next").onclick = () => move(1);
$("save").onclick = save;
document.addEventListener("keydown", event => {
  const number = "1234567890".indexOf(event.key);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (number >= 0 && number < data.classes.length) label(data.classes[number]);
  else if (event.key === "ArrowLeft") move(-1);
  else if (event.key === "ArrowRight") move(1);
  else if (event.key.toLowerCase() === "s") save();
});
show();
</script></html>
"""
