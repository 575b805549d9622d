"""The walls between the packages, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imports(path: Path, tree: ast.AST | None = None) -> set[str]:
    """Dotted names of all that a file (or a part of it) imports, wherever in it."""
    names = set()
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported_packages(folder: str, but: tuple[Path, ...] = ()) -> set[str]:
    """Names of the top-level packages that any file of a folder imports, wherever in the file."""
    files = set((ROOT / folder).rglob("*.py")) - set(but)
    return {name.split(".")[0] for file in files for name in imports(file)}


SERVER = ROOT / "cft" / "page" / "server.py"


def test_using_a_model_needs_neither_the_training_code_nor_gradio():
    assert not imported_packages("cft") & {"train", "app"}
    assert "gradio" not in imported_packages("cft", but=(SERVER,))


def test_nothing_needs_the_server_before_it_is_asked_to_serve():
    for file in {*(ROOT / "cft").rglob("*.py"), *(ROOT / "train").rglob("*.py")} - {SERVER}:
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert "cft.page.server" not in imports(file, node), file


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
