"""A reference -> a model that is ready for use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cft.model.classifier import Classifier
from cft.model.folder import open_model_folder, read_facts
from cft.model.hub import resolve

if TYPE_CHECKING:
    import torch

    from cft.model.ensemble import Ensemble


def load(
    reference: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    engine: str = "auto",
) -> Classifier | Ensemble:
    """Load a model, or an ensemble of models, which is used in the same way.

    Parameters
    ----------
    reference
        A model folder, or ``hf-hub:org/name@revision`` (see `cft.model.hub.resolve`). None: the one
        named by the environment variable ``CFT_MODEL``, else the model bundled with the project.
    device
        Such as "cpu" or "cuda"; None takes a GPU if there is one.
    engine
        What runs the network: "torch"; "onnx" (ONNX Runtime, CPU only, the extra ``fast``); or
        "auto", the faster of those that can, see `cft.model.engines.make_engine`.

    Raises
    ------
    ModelFolderError
        If there is no such folder, it cannot be fetched, or it does not fit. An `EngineError`,
        which is one, if ``engine="onnx"`` cannot run it here.
    ValueError
        If there is no such engine.
    """
    source = resolve(reference)
    if read_facts(source.path).members:
        from cft.model.ensemble import Ensemble  # which is made of classifiers

        model: Classifier | Ensemble = Ensemble(source.path, device, engine)
    else:
        model = Classifier(open_model_folder(source.path), device, engine)
    model.reference, model.commit = source.reference, source.commit
    return model
