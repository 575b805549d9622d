"""The walls between the packages, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imported_packages(folder: str) -> set[str]:
    """Names of the top-level packages that any file of a folder imports, wherever in the file."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names


def test_using_a_model_needs_neither_the_training_code_nor_gradio():
    assert not imported_packages("cft") & {"train", "gradio", "app"}


def test_training_needs_neither_gradio_nor_the_page():
    assert not imported_packages("train") & {"gradio", "app"}


def test_nothing_imports_pickle():
    assert not (imported_packages("cft") | imported_packages("train")) & {
        "pickle",
        "joblib",
        "dill",
        "cloudpickle",
    }


@pytest.mark.parametrize("package", ["cft", "train"])
def test_importing_a_package_imports_no_heavy_library_and_starts_no_thread(package):
    code = (
        f"import sys, threading, {package}\n"
        "heavy = {'torch', 'timm', 'sklearn', 'gradio', 'PIL', 'imagecodecs'} & set(sys.modules)\n"
        "print(sorted(heavy), threading.active_count())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[] 1"


def test_every_public_name_is_there():
    import cft

    for name in cft.__all__:
        assert getattr(cft, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cft.nonsense


def test_every_label_is_described():
    from cft import labels

    sets = (labels.CHEXPERT_14, labels.NIH_14, labels.RANZCR_CLIP_11)
    assert [len(names) for names in sets] == [14, 14, 11]
    assert set(labels.CHEXPERT_5) <= set(labels.CHEXPERT_14)
    assert set().union(*sets) == set(labels.DESCRIPTIONS)
