"""What the page imports and does at its start."""

from __future__ import annotations

import inspect
import subprocess
import sys

import httpx
import jinja2
import pytest

import cft
from cft.page.stubs import no_applications, no_stubs, no_templates
from tests.conftest import ROOT


def test_inside_gradios_components_have_no_source_and_others_have():
    gradio = pytest.importorskip("gradio")
    with no_stubs():
        with pytest.raises(OSError, match="needs no stub"):
            inspect.getfile(gradio.Button)
        assert inspect.getfile(pytest.Item)
    assert inspect.getfile(gradio.Button).endswith("button.py")


def test_the_function_is_put_back_when_something_fails():
    before = inspect.getfile
    with pytest.raises(KeyError), no_stubs():
        raise KeyError
    assert inspect.getfile is before


TEXTS = [
    "",
    "A {{ component }} is clicked.",
    "{{component}} {{ component }}",
    "{# no #}{{ component }}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_filled_as_by_templates(text):
    expected = jinja2.Template(text).render(component="Button")
    with no_templates():
        assert jinja2.Template(text).render(component="Button") == expected
        assert jinja2.Template("{{ x }} {{ component }}").render(x=1, component="b") == "1 b"
    assert isinstance(jinja2.Template(text), jinja2.Template)


def test_templates_are_compiled_again_when_something_fails():
    before = jinja2.Template
    with pytest.raises(KeyError), no_templates():
        raise KeyError
    assert jinja2.Template is before


def test_one_application_is_made_and_it_is_the_one_that_serves(monkeypatch):
    pytest.importorskip("gradio")
    from gradio.routes import App

    from cft.page import server

    made, create = [], App.create_app

    def counted(*arguments, **options):
        made.append(create(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(App, "create_app", staticmethod(counted))
    before = App.__dict__["create_app"]
    with server.serve(cft.load(None, "cpu")) as address:
        assert httpx.get(f"{address}health").status_code == 200
        assert len(made) == 1
        assert made[0].get_blocks()._queue.max_size == server._WAITING
    assert App.__dict__["create_app"] is before


def test_gradio_makes_applications_again_when_something_fails():
    pytest.importorskip("gradio")
    from gradio.routes import App

    before = App.__dict__["create_app"]
    with pytest.raises(KeyError), no_applications(App):
        raise KeyError(App.create_app("anything"))
    assert App.__dict__["create_app"] is before


@pytest.mark.slow
def test_importing_gradio_for_the_page_makes_nothing_that_it_does_not_need():
    """`ast.parse` is what Gradio's stubs need, and nothing else of its import."""
    code = (
        "import ast, gc, sys\n"
        "parsed, parse = [], ast.parse\n"
        "ast.parse = lambda text, *a, **k: parsed.append('class ' in text) or parse(text, *a, **k)\n"  # noqa: E501
        "from cft.page import start\n"
        "server = start.with_gradio()\n"
        "import gradio\n"
        "print(sum(parsed), gc.isenabled(), gradio.__name__, sorted({'torch', 'timm', 'ray',"
        " 'sklearn', 'matplotlib', 'torchvision', 'scipy', 'pydicom', 'pandas', 'pyarrow',"
        " 'gradio.cli'} & set(sys.modules)))\n"
        # Serving it needs none of them either.
        "import cft, httpx\n"
        "with server.serve(cft.load(None, 'cpu')) as address:\n"
        "    print(httpx.get(address).status_code)\n"
        "print('pandas' in sys.modules)\n"
        # What stands for them is what it stands for as soon as something is asked of it.
        "print(gradio.caching.pd.DataFrame({'a': [1]}).shape, 'pandas.core' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "0 True gradio []",
        "200",
        "False",
        "(1, 1) True",
    ]
