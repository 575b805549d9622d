"""How a model was made, as its card says it: commands, label policy, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.datasets.labels import SMOOTH
from train.tables import markdown_table

__all__ = ["recipe"]

_MEANINGS = {
    "negative": "count as negative",
    "positive": "count as positive",
    "ignore": "are left out",
    **{kind: "count as a draw between {:g} and {:g}".format(*SMOOTH[kind]) for kind in SMOOTH},
}


def _policy(policy: Mapping[str, Any]) -> str:
    """A label policy in one sentence; empty if none is recorded."""
    kinds = [kind for kind in ("unknown", "uncertain") if policy.get(kind)]
    overrides = policy.get("overrides") or {}
    if len({policy[kind] for kind in kinds}) == 1 and not overrides:
        return f"{' and '.join(kinds).capitalize()} labels {_MEANINGS[policy[kinds[0]]]}."
    parts = []
    for kind in kinds:
        some = ", ".join(f"{x}: {_MEANINGS[how]}" for x, how in overrides.get(kind, {}).items())
        rest = f" ({some})" if some else ""
        parts.append(f"{kind} labels {_MEANINGS[policy[kind]]}{rest}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def recipe(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Both stages: the command that repeats each, its label policy, its settings."""
    yield "## Recipe"
    first = provenance.get("stage_1")
    if provenance.get("stage") == "ensemble":
        yield (
            "An ensemble: `config.json` lists its members with their shares and hashes under "
            "`cft.members`, and each is a whole model with its own card in `members/`."
        )
    if first is not None:
        yield "### Stage 1: training on all films"
        yield from _stage(first)
        yield "### Stage 2: category-wise fine-tuning"
        parent = provenance.get("parent")
        yield (
            "The network is frozen; the logistic regression of each category is fitted again on "
            "known labels only. `MODEL` is the model of stage 1"
            + (f", whose weights have the SHA-256 `{parent}`." if parent else ".")
        )
    yield from _stage(provenance)
    methods = provenance.get("methods", {})
    kept = [label for label, method in methods.items() if method == "original"]
    if kept:
        share = "Every category keeps" if len(kept) == len(methods) else f"{', '.join(kept)} keep"
        yield f"{share} the regression of stage 1."


def _stage(provenance: Mapping[str, Any]) -> Iterator[str]:
    if provenance.get("command"):
        yield f"```bash\n{provenance['command']}\n```"
    policy = _policy(provenance.get("label_policy", {}))
    if policy:
        yield policy
    teachers = [
        f"`TEACHER` is a {x['architecture']} with weights of the SHA-256 `{x['weights_sha256']}`."
        for x in provenance.get("teachers", [])
    ]
    if teachers:
        yield " ".join(["Their answers are a part of the targets:", *teachers])
    history = provenance.get("history")
    if history:
        yield (
            "Training labels are means with those of the same patients' other films: `TABLE` lists "
            f"{history['films']:,} films and has the SHA-256 `{history['sha256']}`."
        )
    yield from _origin(provenance)
    facts = {"best epoch": provenance.get("best_epoch"), "seed": provenance.get("seed")}
    facts["strength of the penalty"] = provenance.get("frozen", {}).get("strength")
    idle = ["seed"]
    idle += [] if teachers else ["teacher_weight"]
    idle += [] if history else ["history_share", "history_reach"]
    if not provenance.get("joined"):  # to join trains nothing: the settings are those of the runs
        arguments = provenance.get("arguments", {})
        facts |= {f"`{k}`": v for k, v in arguments.items() if k not in idle}
    given = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    if given:
        yield markdown_table([["Setting", "Value"], *([k, str(v)] for k, v in given.items())])


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What a network was joined of, or started from, as far back as models of this project go."""
    members = provenance.get("joined")
    if not members:
        made = (provenance.get("start") or {}).get("made", {})
        if made.get("command"):
            yield f"Its start is a model of this project, made by\n\n{_code(made)}"
            yield from _origin(made)
        return
    yield _joined(members)
    for number, member in enumerate(members[:-1], start=1):
        made = member.get("made", {})
        if made.get("command"):
            yield f"Run {number} of these was made by\n\n{_code(made)}"
            yield from _origin(made)


def _code(made: Mapping[str, Any]) -> str:
    return f"```bash\n{made['command']}\n```"


def _joined(records: Sequence[Mapping[str, Any]]) -> str:
    """What was joined, from the records of `train.stage1.join.JoinRun`."""
    *members, whole = records
    alone = [
        f"run {number} (seed {x['seed']}) {x['valid']['auroc']:.4f}"
        for number, x in enumerate(members, start=1)
    ]
    return (
        f"It is the networks of {len(members)} runs side by side; a logit is the mean of theirs. "
        f"Mean AUROC on the validation films: {whole['valid']['auroc']:.4f}; of the runs alone: "
        f"{', '.join(alone)}. Their weights have the SHA-256 "
        + ", ".join(f"`{x['weights_sha256']}`" for x in members)
        + "."
    )
