"""What is published of datasets: it adds up, and it is compared with what options and layouts leave."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts

from fercore.data.labels import CANONICAL
from fercore.data.spec import FORMATS, parse_spec
from fercore.datasets.check.words import fault_lines
from fercore.datasets.facts import FACTS
from tests.loading import check_texts


def test_published_facts_fit_the_spec_and_add_up():
    own = {"synthfer", "folder", "list", "manifest"}
    assert set(FACTS) == set(FORMATS) - own
    for name, facts in FACTS.items():
        assert facts.page.startswith("http")
        assert set(facts.classes) <= set(CANONICAL)
        for published in facts.published:
            assert set(published.when) <= set(FORMATS[name].options)
            for part, by_class in published.counts.items():
                assert set(by_class) <= set(facts.classes)
                if part in published.sizes and len(by_class) > 1:
                    assert sum(by_class.values()) == published.sizes[part], (name, part)
    ck = FACTS["ckplus"]
    assert ck.fitting(parse_spec("ckplus:x?neutral=per_subject&contempt=drop")).sizes == {"": 1050}
    assert ck.fitting(parse_spec("ckplus:x")).sizes == {"": 1308}
    assert ck.fitting(parse_spec("ckplus:x?last_n=5")) is None
    assert ck.fitting(parse_spec("ckplus:x?limit=5")) is None
    assert ck.fitting(parse_spec("ckplus:x"), {"neutral": "none", "last_n": "3"}).sizes == {"": 981}
    assert ck.fitting(parse_spec("ckplus:x?neutral=none&contempt=drop")).sizes == {"": 927}


def test_dropped_classes_come_off_the_published_numbers():
    plus = FACTS["ferplus"].fitting(parse_spec("ferplus:x?drop=contempt"))
    assert plus.sizes == {"train": 24_941, "val": 3_186, "test": 3_137}
    assert "contempt" not in plus.counts["train"]
    affect = FACTS["affectnet"].fitting(parse_spec("affectnet:x?drop=contempt"))
    assert affect.sizes == {"train": 283_901, "val": 3_500}
    # The counts of other classes in its test part are not published, so the size is not known without them.
    assert FACTS["ferplus"].fitting(parse_spec("ferplus:x?drop=contempt,fear")).sizes == {"train": 24_409}
    assert FACTS["sfew"].fitting(parse_spec("sfew:x?drop=neutral")).sizes == {}


def found(spec: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return (part, class) -> found, published, of what differs."""
    (domain,) = check_texts([spec])["domains"]
    return {(item["part"], item["class"]): (item["found"], item["published"]) for item in domain["published"]["wrong"]}


def test_ck48_is_compared_with_what_it_can_hold(tmp_path: Path):
    layouts.ck48(tmp_path)
    wrong = found(f"ckplus:{tmp_path}")
    assert wrong["", ""] == (21, 981)
    assert ("", "neutral") not in wrong


def test_classes_of_a_whole_in_parts(tmp_path: Path):
    layouts.expw(tmp_path)
    wrong = found(f"expw:{tmp_path}")
    assert wrong["", "fear"] == (2, 1088)
    assert wrong["train", ""] == (5, 28_848)
    (domain,) = check_texts([f"expw:{tmp_path}"])["domains"]
    assert "fear 2 [1088]" in fault_lines(domain)[0]
