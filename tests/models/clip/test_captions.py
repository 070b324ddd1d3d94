"""Sentences about faces: always true of the face, and told apart from those that are not."""

import numpy as np
import pytest

from fercore.data.labels import CANONICAL
from fercore.models.clip.captions import ADJECTIVES, UNITS, Caption, write_caption
from fercore.synthfer import AU_NAMES

DRAWS = np.random.default_rng(0).random((400, 4))


def test_every_expression_and_unit_has_words():
    assert set(ADJECTIVES) == set(CANONICAL)
    assert set(UNITS) == set(AU_NAMES)
    assert len(set(UNITS.values())) == len(UNITS)


@pytest.mark.parametrize("label", CANONICAL)
def test_a_caption_is_true_of_its_face(label):
    shown = ["AU01", "AU04", "AU25", "AU99"]
    captions = [write_caption(label, shown, draws) for draws in DRAWS]
    assert all(caption.fits(label, shown) for caption in captions)
    assert {caption.label for caption in captions} == {label, None}
    assert {len(caption.units) for caption in captions} == {0, 1, 2}
    assert set().union(*(caption.units for caption in captions)) == {"AU01", "AU04", "AU25"}
    for caption in captions:
        assert (caption.label is None) == (label not in caption.text and ADJECTIVES[label] not in caption.text)
        assert all(UNITS[unit] in caption.text for unit in caption.units)
        assert not any(words in caption.text for unit, words in UNITS.items() if unit not in caption.units)
        assert "{" not in caption.text
        assert "a angry" not in caption.text


def test_equal_sentences_make_equal_claims():
    claims = {}
    for label in CANONICAL:
        for draws in DRAWS:
            caption = write_caption(label, ["AU01", "AU12"], draws)
            assert claims.setdefault(caption.text, caption) == caption


def test_a_face_without_units_is_named():
    assert all(write_caption("anger", [], draws).units == frozenset() for draws in DRAWS)
    assert all(write_caption("anger", [], draws).label == "anger" for draws in DRAWS)


def test_what_a_caption_fits():
    caption = Caption("an angry face with brows lowered.", "anger", frozenset({"AU04"}))
    assert caption.fits("anger", ["AU04", "AU25"])
    assert not caption.fits("anger", ["AU25"])
    assert not caption.fits("fear", ["AU04"])
    assert Caption("brows lowered.", None, frozenset({"AU04"})).fits("fear", ["AU04"])


def test_every_sentence_fits_the_small_text_tower(small):
    longest = sorted(UNITS, key=lambda unit: -len(small.tokenizer.encode(UNITS[unit])))[:2]
    texts = [write_caption(label, order, draws).text for label in CANONICAL for draws in DRAWS
             for order in (longest, longest[::-1])]  # fmt: skip
    assert small.tokenize(sorted(set(texts))).shape[1] == 32
