"""The genetic algorithm: the published operators, the ones that look where they go, resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from train.precision import full_precision
from train.stage2.genetic import Evolution, Genetic
from train.stage2.lineage import Lineage
from train.stage2.pulls import pulls_of

D = 20
PAPER, GUIDED = Genetic.paper(), Genetic()
REFERENCES = {"auroc": roc_auc_score, "ap": average_precision_score}


def films(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, D) features and (n,) labels, 30 % of them unknown, of a logistic regression."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((n, D), generator=generator)
    truth = z @ torch.linspace(-1, 1, D) + torch.randn(n, generator=generator)
    y = (truth > 0.7).float()
    y[torch.rand(n, generator=generator) < 0.3] = torch.nan
    return z, y


def evolution(settings: Genetic, seed: int = 0, metric: str = "auroc", **changes) -> Evolution:
    """Of one category."""
    z, y = films(400, 1)
    z_valid, y_valid = films(150, 2)
    weights = 0.3 * torch.linspace(-1, 1, D) + 0.2 * torch.cos(torch.arange(D))
    facts = {"z_valid": z_valid, "y_valid": y_valid, "z": z, "y": y, "weights": weights, **changes}
    for name in ("y", "y_valid"):
        facts[name] = facts[name][:, None]
    facts["weights"] = facts["weights"][None]
    return Evolution(settings=settings, metric=metric, seeds=[seed], **facts)


class OneCategory:
    """A search of one category: steps are the program's, all else is its lineage's."""

    def __init__(self, *arguments, **options):
        self.evolution = evolution(*arguments, **options)
        self.lineage: Lineage = self.evolution.lineages[0]
        self.step = self.evolution.step

    def __getattr__(self, name: str):
        return getattr(self.lineage, name)


start = OneCategory


def run(search, generations: int):
    for _ in range(generations):
        search.step()
    return search


def reference(metric: str, weights: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> float:
    known = ~y.isnan()
    return REFERENCES[metric](y[known].numpy(), (z[known] @ weights).numpy())


def with_population(search: OneCategory, **state: torch.Tensor) -> OneCategory:
    search.resume({**search.state(), **state})
    return search


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "kind"), [(1, "positive"), (0, "negative")])
@pytest.mark.parametrize(("side", "name"), [("y", "training"), ("y_valid", "validation")])
def test_a_class_without_known_films_is_refused(value, kind, side, name):
    y = films(400 if side == "y" else 150, 1)[1]
    y[y == value] = torch.nan
    with pytest.raises(ValueError, match=f"no known {kind} {name} film"):
        start(PAPER, **{side: y})


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="no metric 'f1'"):
        start(PAPER, metric="f1")


def test_the_state_of_another_search_is_refused():
    state = start(PAPER).state()
    for other in (start(PAPER, seed=1), start(replace(PAPER, spread=0.1)), start(GUIDED)):
        with pytest.raises(ValueError, match="other settings, films or seed"):
            other.resume(state)


# --- Both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["auroc", "ap"])
@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_what_is_found_is_the_best_by_validation(settings, metric):
    search = run(start(settings, metric=metric), 12)
    z, y = films(400, 1)
    z_valid, y_valid = films(150, 2)
    assert search.validation == pytest.approx(
        reference(metric, search.weights, z_valid, y_valid), abs=1e-6
    )
    assert search.fitness == pytest.approx(reference(metric, search.weights, z, y), abs=1e-4)
    assert search.validation == max(row["validation"] for row in search.history)
    # The first generation is the trained regression, so nothing worse can be found.
    assert search.validation >= search.history[0]["validation"]


@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_the_fittest_are_never_lost(settings):
    best = [row["best"] for row in run(start(settings), 20).history]
    assert best == sorted(best)
    assert best[-1] > best[0]


@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_films_of_unknown_label_take_no_part(settings):
    z, y = films(400, 1)
    others = torch.where(y.isnan()[:, None], 100.0, z)
    found = [run(start(settings, z=features), 5).weights for features in (z, others)]
    assert torch.equal(*found)


@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_a_seed_decides_the_search(settings):
    first, again, other = (run(start(settings, seed=seed), 5) for seed in (3, 3, 4))
    assert first.history == again.history
    assert first.history != other.history


@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_a_resumed_search_is_the_same_search(settings):
    whole = run(start(settings), 30)
    first = run(start(settings), 11)
    second = start(settings)
    second.resume(first.state())
    run(second, 19)
    assert len(second.path) == len(whole.path)
    assert torch.equal(whole.weights, second.weights)
    assert whole.history == second.history
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_a_search_ends_by_its_patience_and_keeps_the_original(settings):
    z_valid = torch.stack([torch.linspace(-1, 1, D), -torch.linspace(-1, 1, D)])
    search = start(replace(settings, patience=7), z_valid=z_valid, y_valid=torch.tensor([1.0, 0.0]))
    trained = search.weights.clone()
    steps = 0
    while not search.done:
        search.step()
        steps += 1
    assert steps == 7  # validation is perfect from the start: nothing is strictly better
    assert torch.equal(search.weights, trained)


def test_the_guided_search_keeps_what_it_passes():
    search = run(start(GUIDED), 6)
    z, y = films(400, 1)
    assert len(search.path) == 6
    for weights, row in zip(search.path, search.history, strict=True):
        assert reference("auroc", weights, z, y) == pytest.approx(row["best"], abs=1e-4)


def test_a_search_ends_by_its_generations():
    search = start(replace(PAPER, generations=3))
    run(search, 3)
    assert search.done


def test_scores_are_products_of_full_precision(monkeypatch):
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


# --- Categories side by side --------------------------------------------------------------------


def three(settings: Genetic, metric: str = "auroc", only: int | None = None) -> Evolution:
    """Three categories of 220, 120 and all of 300 films; or one of them by itself."""
    z, _ = films(300, 11)
    z_valid, _ = films(150, 12)
    generator = torch.Generator().manual_seed(13)
    weights = torch.randn((3, D), generator=generator)
    y, y_valid = (
        (x @ weights.T + 4 * torch.randn((len(x), 3), generator=generator) > 1).float()
        for x in (z, z_valid)
    )
    y[220:, 0], y[:180, 1], y_valid[:40, 1] = torch.nan, torch.nan, torch.nan
    columns = [0, 1, 2] if only is None else [only]
    starts = (weights + torch.randn((3, D), generator=generator))[columns]
    return Evolution(
        *(z, y[:, columns], starts),
        z_valid=z_valid,
        y_valid=y_valid[:, columns],
        settings=settings,
        metric=metric,
        seeds=[5 + c for c in columns],
        basis=torch.eye(D) if settings.guided else None,
    )


@pytest.mark.parametrize("metric", ["auroc", "ap"])
@pytest.mark.parametrize("settings", [PAPER, GUIDED])
def test_a_category_is_searched_beside_others_as_by_itself(settings, metric):
    """Products of other shapes round otherwise; a pair of films may change its order by that."""
    beside = run(three(settings, metric), 8)
    for c, lineage in enumerate(beside.lineages):
        (alone,) = run(three(settings, metric, only=c), 8).lineages
        np.testing.assert_allclose(lineage.history_array(), alone.history_array(), atol=1e-3)
        torch.testing.assert_close(lineage.weights, alone.weights, atol=1e-4, rtol=1e-4)


def test_a_category_that_has_ended_stays_while_others_go_on():
    both = three(replace(GUIDED, generations=9))
    first = both.lineages[0]
    first.resume({**first.state(), "numbers": torch.tensor([0.5, 0.5, 6.0, 0.0]).double()})
    run(both, 9)
    assert [lineage.generation for lineage in both.lineages] == [9, 9, 9]
    assert [len(lineage.history) for lineage in both.lineages] == [3, 9, 9]
    assert both.done


def test_one_category_without_a_class_is_refused_among_others():
    z, y = films(50, 3)
    labels = torch.stack([y, torch.where(y == 0, torch.nan, y)], dim=1)
    with pytest.raises(ValueError, match="no known negative training film"):
        Evolution(
            *(z, labels, torch.ones(2, D)),
            z_valid=z,
            y_valid=torch.stack([y, y], dim=1),
            seeds=[0, 0],
        )


# --- The published operators --------------------------------------------------------------------


def test_the_published_settings_are_those_of_the_public_code():
    assert (PAPER.population, PAPER.generations, PAPER.patience) == (50, 5000, 300)
    assert (PAPER.crossover, PAPER.mutation, PAPER.spread, PAPER.elites) == (0.2, 0.5, 1e-3, 1)


def test_half_of_the_children_mutate_in_every_gene():
    search = start(replace(PAPER, population=2000))
    trained = search.weights.clone()
    search.step()
    population = search.state()["population"]
    assert torch.equal(population[0], trained)  # the elite
    changes = population - trained
    mutated = (changes != 0).any(dim=1)
    assert mutated.float().mean() == pytest.approx(0.5, abs=0.05)
    # Every gene of these, evenly between the limits (float32 of the sum rounds a little).
    assert changes[mutated].abs().max() <= 1e-3 + 1e-7
    assert changes[mutated].std() == pytest.approx(1e-3 / np.sqrt(3), rel=0.03)
    assert changes[mutated].mean() == pytest.approx(0, abs=2e-5)


def test_a_child_has_a_fifth_of_its_genes_from_the_first_parent():
    search = start(replace(PAPER, population=1000, mutation=0.0))
    # Two kinds of individuals, by a sign; only fitness decides who is a parent.
    kinds = torch.where(torch.arange(1000) < 500, -1.0, 1.0)
    with_population(search, population=kinds[:, None].expand(-1, D).clone())
    search.step()
    share = (search.state()["population"][1:] == 1).float().mean(dim=1)
    mixed = share[(share > 0) & (share < 1)]
    # Parents of one kind each half of the time; else the second kind's share is 0.2 or 0.8.
    assert len(mixed) == pytest.approx(500, abs=70)
    assert mixed[mixed < 0.5].mean() == pytest.approx(0.2, abs=0.03)
    assert mixed[mixed > 0.5].mean() == pytest.approx(0.8, abs=0.03)


def test_roulette_is_proportional_to_fitness():
    search = start(replace(PAPER, population=1000, mutation=0.0, crossover=1.0))
    number = torch.arange(1000.0)[:, None].expand(-1, D).clone()
    fitness = torch.zeros(1000, dtype=torch.float64)
    fitness[:10], fitness[10:20] = 0.25, 0.75
    with_population(search, population=number, fitness=fitness)
    search.step()
    parents = search.state()["population"][1:, 0]
    assert parents.max() < 20  # no fitness, no child
    assert (parents >= 10).float().mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_regressions_that_rank_every_pair_wrongly_are_a_beginning_too(metric):
    """Their fitness is 0, and there is nobody whom roulette would prefer."""
    z, y = torch.tensor([[1.0], [2.0], [3.0]]).expand(-1, D), torch.tensor([1.0, 0.0, 0.0])
    search = start(PAPER, metric=metric, z=z, y=y, weights=torch.ones(D))
    run(search, 3)
    assert len(search.history) == 3


# --- Operators that look where they go ----------------------------------------------------------


def test_pulls_are_the_gradient_of_the_smoothed_auroc():
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(60, generator=generator, dtype=torch.float64).requires_grad_()
    y = (torch.rand(60, generator=generator) < 0.3).double()
    width = torch.tensor(0.6, dtype=torch.float64)
    differences = scores[y == 1][:, None] - scores[y == 0]
    smoothed = (differences / (2 * width) + 0.5).clamp(0, 1).mean()
    (expected,) = torch.autograd.grad(smoothed, scores)
    found = pulls_of(scores.detach(), y, width)
    torch.testing.assert_close(found, expected / expected.abs().sum())


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_films_that_do_not_count_pull_nothing_and_change_no_other(metric):
    """Each row of several is as the counted films by themselves, tied scores among them."""
    generator = torch.Generator().manual_seed(6)
    scores = torch.randn((3, 80), generator=generator).mul(8).round() / 8
    y = (torch.rand(80, generator=generator) < 0.4).float()
    counted = torch.rand((3, 80), generator=generator) < 0.5
    width = torch.tensor([[0.3], [0.6], [1.0]])
    found = pulls_of(scores, y, width, metric, counted)
    assert not found[~counted].any()
    for k, half in enumerate(counted):
        expected = pulls_of(scores[k, half], y[half], width[k], metric)
        torch.testing.assert_close(found[k, half], expected)


def test_pulls_of_average_precision_weigh_a_positive_by_what_a_negative_above_costs_it():
    """By hand: of scores 3 2 1 0, labels 1 0 1 0, all pairs close."""
    scores, y = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    first, second = 1 / 1**2, 2 / 3**2  # t / (t + f)^2 of the two positives
    expected = torch.tensor([2 * first, -first - second, 2 * second, -first - second])
    found = pulls_of(scores, y, torch.tensor(5.0), "ap")
    torch.testing.assert_close(found, expected / expected.abs().sum())


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_a_small_step_along_the_pulls_raises_the_metric(metric):
    z, y = films(3000, 7)
    z, y = z[~y.isnan()], y[~y.isnan()]
    weights = torch.cos(torch.arange(D))
    scores = z @ weights
    direction = pulls_of(scores, y, 0.3 * scores.std(), metric) @ z
    moved = weights + 0.05 * direction * weights.norm() / direction.norm()
    assert reference(metric, moved, z, y) > reference(metric, weights, z, y) + 0.003


def test_pulls_of_separate_classes_are_zero():
    scores = torch.tensor([5.0, 6.0, -5.0, -6.0])
    assert not pulls_of(scores, torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor(1.0)).any()


def test_scores_that_are_summed_up_stay_those_of_the_weights():
    search = run(start(GUIDED), 24)  # the last generation before all are taken anew
    state = search.state()
    z, y = films(400, 1)
    exact = state["population"] @ z[~y.isnan()].T
    torch.testing.assert_close(state["scores"], exact, rtol=1e-4, atol=1e-4)


def test_the_guided_search_passes_the_published_one_by_far():
    guided, paper = run(start(GUIDED), 15), run(start(PAPER), 60)
    assert guided.history[-1]["best"] > paper.history[-1]["best"] + 0.01


def test_the_guided_search_finds_what_separates():
    z, _ = films(300, 1)
    y = (z @ torch.linspace(-1, 1, D) > 0.5).float()
    search = run(start(replace(GUIDED, generations=60, patience=60), z=z, y=y), 60)
    assert search.history[-1]["best"] > 0.995


def test_a_constant_feature_and_a_constant_regression_do_no_harm():
    z, y = films(400, 1)
    z[:, 3] = 2.0
    search = run(start(GUIDED, z=z, weights=torch.zeros(D)), 10)
    assert search.history[0]["best"] == 0.5
    assert search.history[-1]["best"] > 0.6
    assert search.weights.isfinite().all()
    assert y.isnan().any()
