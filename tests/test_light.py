"""timm comes without PyTorch's compiler, whose import takes seconds, and both work as ever."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def run(code: str) -> str:
    """What a process of its own prints."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_LAID_OUT = """
import sys
import train.cft, train.negative
from cft.architectures.light import timm
from cft.model.folder import open_model_folder
from cft.model.network import build_network
import torch, torch.compiler
build_network(open_model_folder(sys.argv[1]))
print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules)
print(torch.compiler.disable.__module__)
"""


@pytest.mark.slow
def test_the_commands_of_training_load_a_network_without_the_compiler(tiny_model_folder):
    code = _LAID_OUT.replace("sys.argv[1]", repr(str(tiny_model_folder)))
    assert run(code).split() == ["False", "False", "torch.compiler"]


_AFTERWARDS = """
from cft.architectures.light import timm
import torch, torchvision
from timm.models.naflexvit import NaFlexRopeIterator
import torch._dynamo.utils
# What asks for the compiler is given it: the pooled region is the mean of its four pixels.
film, box = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
pooled = torchvision.ops.roi_align(film, box, 1, sampling_ratio=1, aligned=True)
print(float(pooled), float(film[0, 0, :2, :2].mean()))
print(hasattr(torch._dynamo.utils, "counters"))
# The function that timm leaves out of what is compiled is still left out.
print(NaFlexRopeIterator.__next__.__wrapped__.__name__)
compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
print(torch.equal(compiled(film), film.sin() + 1))
"""


@pytest.mark.slow
def test_what_asks_for_the_compiler_later_is_given_it():
    pooled, mean, *rest = run(_AFTERWARDS).split()
    assert float(pooled) == float(mean) == 2.5
    assert rest == ["True", "__next__", "True"]
