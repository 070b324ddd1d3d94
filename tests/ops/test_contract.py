"""The rules every op keeps: derivatives, torch.library.opcheck by enumeration, torch.compile, and which form runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fercore import ops
from fercore.ops import build, dispatch, reference
from tests.ops.cases import CASES, differentiate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FORMS = {"compiled": dispatch.alignment, "reference": reference.alignment}
needs_kernels = pytest.mark.skipif(
    os.environ.get("FERCORE_REQUIRE_EXT") != "1" and build.find_compiler("cpu") is None, reason="no C++ compiler"
)


def fixed(case_name="plain"):
    """Inputs with fixed bandwidths: the default ones are constants to the op, but move in a numeric derivative."""
    x, y, arguments = CASES[case_name].tensors(torch.float64)
    groups, classes = x.shape[0], arguments[8]
    bands = torch.rand(groups, dtype=torch.float64) * 5 + 3, torch.rand(groups, classes, classes).double() * 5 + 3
    return x.requires_grad_(), y.requires_grad_(), (*arguments[:6], *bands, *arguments[8:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["plain", "labels_by_group", "multiplier"])
def test_mmd_gradcheck_and_gradgradcheck(form, name):
    x, y, arguments = fixed(name)

    def function(x, y):
        return FORMS[form](x[:, :7, :3], y[:, :5, :3], *cut(arguments))[:2]

    assert torch.autograd.gradcheck(function, (x, y), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, y), fast_mode=True)


def cut(arguments):
    return tuple(a[:, :7] if i in {0, 2, 4} else a[:, :5] if i in {1, 3, 5} else a for i, a in enumerate(arguments))


@pytest.mark.slow
def test_mmd_gradcheck_of_streamed_groups():
    x, y, arguments = fixed("streamed")
    assert torch.autograd.gradcheck(lambda x, y: dispatch.alignment(x, y, *arguments)[:2], (x, y), fast_mode=True)


@pytest.mark.parametrize("form", ["abs", "offdiag"])
def test_mpc_gradcheck_and_gradgradcheck(form):
    p, q = (torch.rand(3, 6, 4, dtype=torch.float64).softmax(-1).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda p, q: ops.mpc_consistency(p, q, form=form), (p, q))
    assert torch.autograd.gradgradcheck(lambda p, q: ops.mpc_consistency(p, q, form=form), (p, q))


def opcheck_samples():
    """Return op name -> argument tuples."""
    x, y, arguments = CASES["plain"].tensors(torch.float32)
    wide = CASES["streamed"].tensors(torch.float32)
    sample_only = (*wide[2][:2], *[None] * 6, 0, 5, 2.0)
    outputs = torch.ops.fercore.mmd(x, y, *arguments, True)
    p, q = (torch.rand(2, 6, 4).softmax(-1) for _ in range(2))
    joint = torch.ops.fercore.mpc(p, q, False)[1]
    grads = torch.rand(4), torch.rand(4, 4, 4)
    leaf = lambda t: t.clone().requires_grad_()  # noqa: E731
    return {
        "mmd": [
            (leaf(x), leaf(y), *arguments, True),
            (x, y, *arguments, False),
            (leaf(wide[0]), leaf(wide[1]), *sample_only, True),
        ],
        "mmd_backward": [(*grads, leaf(x), leaf(y), *arguments[:6], outputs[3], outputs[4], *arguments[8:])],
        "mpc": [(leaf(p), leaf(q), False), (p, q, True)],
        "mpc_backward": [(torch.rand(2), leaf(p), leaf(q), joint, False)],
    }


@pytest.mark.slow
@needs_kernels
def test_every_op_passes_opcheck():
    assert dispatch.compiled("cpu")
    names = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("fercore::")
    }
    samples = opcheck_samples()
    assert names == set(samples), "an op has no opcheck sample, or a sample no op"
    for name, calls in samples.items():
        for call in calls:
            torch.library.opcheck(getattr(torch.ops.fercore, name).default, call)


@needs_kernels
@pytest.mark.slow
def test_torch_compile_has_no_graph_break():
    torch._dynamo.reset()
    x, y, arguments = CASES["plain"].tensors(torch.float32)

    def function(x, y, *rest):
        sample, value, valid = dispatch.alignment(x * 1.0, y * 1.0, *rest)
        return sample + 1, value + 0, valid

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    actual = differentiate(compiled, x, y, arguments)
    expected = differentiate(function, x, y, arguments)
    assert all(torch.allclose(a, e) for a, e in zip(actual, expected, strict=True))


@needs_kernels
def test_keep_false_has_no_gradient_and_says_so():
    x, y, arguments = CASES["plain"].tensors(torch.float32)
    sample = torch.ops.fercore.mmd(x.requires_grad_(), y, *arguments, False)[0]
    with pytest.raises(RuntimeError, match="keep=True"):
        sample.sum().backward()


@needs_kernels
def test_kernels_and_report_say_what_runs():
    assert ops.kernels("cpu") == {"mmd": "cpu", "mpc": "cpu"}
    report = dispatch.report()
    assert report["cpu"]["loaded"]
    assert report["cpu"]["built"] in {"ahead of time", "at first use"}
    assert report["cuda"]["archs"] == ["sm_80", "sm_90", "sm_100"]


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


CALL = "import torch; from fercore import ops; w = torch.ones(2) / 2; x = torch.eye(2); "


@pytest.mark.slow
def test_without_a_compiler_the_reference_runs_and_says_so_once(tmp_path):
    code = CALL + "[ops.weighted_mmd(x, x, w, w) for _ in range(2)]; print(ops.kernels('cpu'))"
    code = "from fercore.ops import build; build.AHEAD = build.Path('/nowhere')\n" + code
    code = code.replace("from fercore.ops import build;", hidden_build(), 1)
    done = python(code, FERCORE_CACHE=str(tmp_path), CXX="", PATH="", FERCORE_REQUIRE_EXT="0")
    assert done.returncode == 0, done.stderr
    assert "'mmd': 'reference'" in done.stdout
    assert done.stderr.count("plain torch runs instead") == 1
    done = python(code, FERCORE_CACHE=str(tmp_path), CXX="", PATH="", FERCORE_REQUIRE_EXT="1")
    assert done.returncode != 0
    assert "ExtensionRequiredError" in done.stderr


def hidden_build():
    """Code that loads fercore.ops.build without fercore.ops, whose import would load a library that is there."""
    path = build.__file__
    return (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('fercore.ops.build', "
        f"{path!r}); build = importlib.util.module_from_spec(s); sys.modules['fercore.ops.build'] = build; "
        "s.loader.exec_module(build);"
    )


@pytest.mark.slow
@pytest.mark.parametrize("level", ["avx2", "baseline"])
@needs_kernels
def test_every_vector_level_gives_the_same_answers(level):
    code = (
        "import sys; sys.path.insert(0, '.'); import torch; from tests.ops.cases import *; "
        "from fercore.ops import dispatch, reference\n"
        "for name in ('plain', 'one_group', 'wide', 'streamed'):\n"
        "    for dtype in (torch.float32, torch.float64):\n"
        "        x, y, rest = CASES[name].tensors(dtype)\n"
        "        a = differentiate(dispatch.alignment, x, y, rest)\n"
        "        e = differentiate(reference.alignment, x.double(), y.double(), widen(rest))\n"
        "        assert max(distance(s, t) for s, t in zip(a, e)) < GRADIENT[dtype], (name, dtype)\n"
        "print(dispatch.state('cpu').info)"
    )
    done = python(code, FERCORE_VECTOR=level)
    assert done.returncode == 0, done.stderr
    assert f"'vector_level': '{level}'" in done.stdout
