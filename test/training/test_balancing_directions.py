# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Common directions: each method against its defining property or a closed-form example."""

import pytest

pytest.importorskip('torch', reason='training extras are not installed')

import torch
from balancing_toy import CONFLICT, Toy, close, gram, random_rows

from training.balancing.solvers import alpha_fair, min_norm_point, nonnegative_qp


@pytest.mark.parametrize(
    ('rows', 'first'),
    [(CONFLICT, 0.75), ([[1.0, 0.0], [3.0, 1.0]], 1.0), ([[2.0, 0.0], [0.0, 1.0]], 0.2)],
)
def test_mgda_is_the_closed_form_of_two_tasks(rows, first):
    """Sener and Koltun, Algorithm 1: clip((g2 - g1) . g2 / |g1 - g2|^2)."""
    toy = Toy(rows)
    _, weights = toy.step(toy.make('MGDA'))
    close(list(weights.values()), [first, 1 - first])
    g1, g2 = (torch.tensor(row) for row in rows)
    close(first, ((g2 - g1) @ g2 / (g2 - g1).norm() ** 2).clamp(0, 1))


def test_mgda_normalised_by_length_and_loss():
    toy = Toy([[3.0, 0.0], [0.0, 0.5]])
    direction, _ = toy.step(toy.make('MGDA', {'normalise': 'length'}))
    close(direction, [0.5, 0.5])
    direction, _ = toy.step(toy.make('MGDA', {'normalise': 'loss'}), [3.0, 0.5])
    close(direction, [0.5, 0.5])


@pytest.mark.parametrize('seed', range(5))
def test_min_norm_point_has_equal_products_where_it_has_weight(seed):
    gramian = gram(random_rows(seed, 5, 4))
    w = min_norm_point(gramian)
    products, squared = gramian @ w, w @ gramian @ w
    assert (w >= 0).all() and (products >= squared - 1e-9).all()
    close(w.sum(), 1.0)
    close(products[w > 0], squared.expand(int((w > 0).sum())), 1e-8)


def test_pcgrad_projects_conflicts_away():
    toy = Toy(CONFLICT)
    direction, _ = toy.step(toy.make('PCGrad'))
    g1, g2 = (torch.tensor(row) for row in CONFLICT)
    p1 = g1 - (g1 @ g2) / (g2 @ g2) * g2
    p2 = g2 - (g1 @ g2) / (g1 @ g1) * g1
    close(direction, p1 + p2)
    assert abs(p1 @ g2) < 1e-6 and abs(p2 @ g1) < 1e-6
    direction, weights = toy.step(toy.make('PCGrad'), rows=[[1.0, 0.0], [1.0, 1.0]])
    close(direction, [2.0, 1.0])  # no conflict: the sum
    assert weights == {'a': 1.0, 'b': 1.0}


def test_pcgrad_order_is_random_by_step_and_seed():
    toy = Toy(random_rows(4, 4, 3))
    first = [toy.step(toy.make('PCGrad', seed=1), step=step)[0] for step in range(8)]
    again = [toy.step(toy.make('PCGrad', seed=1), step=step)[0] for step in range(8)]
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert len({tuple(x.tolist()) for x in first}) > 1


def test_gradvac_reaches_the_target_cosine():
    toy = Toy([[1.0, 0.0], [0.0, 1.0]])
    balancer = toy.make('GradVac', {'beta': 0.5})
    balancer.state['target'][:] = 0.6
    direction, _ = toy.step(balancer)
    # g1 + a g2 with cosine 0.6 to g2: tan = 4/3, so a = 3/4; likewise for g2.
    close(direction, [1.75, 1.75])
    close(balancer.state['target'], [[0.6, 0.3], [0.3, 0.6]])


def test_gradvac_with_target_zero_is_pcgrad():
    toy = Toy(CONFLICT)
    close(toy.step(toy.make('GradVac'))[0], toy.step(toy.make('PCGrad'))[0])


def test_graddrop_keeps_one_sign_with_the_purity_as_probability():
    rows = torch.tensor([3.0, -1.0])[:, None].expand(2, 4000)
    toy = Toy(rows)
    direction, weights = toy.step(toy.make('GradDrop'))
    assert set(direction.tolist()) == {3.0, -1.0} and weights == {}
    assert (direction > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
    leaking, _ = toy.step(toy.make('GradDrop', {'leak': 0.25}))
    close(sorted(set(leaking.tolist())), [-1.0 + 0.75, 3.0 - 0.25])


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('c', [0.0, 0.4, 0.9])
def test_cagrad_stays_in_its_ball_and_beats_everything_else_there(seed, c):
    rows = random_rows(seed, 3, 5)
    toy = Toy(rows)
    direction, _ = toy.step(toy.make('CAGrad', {'c': c, 'rescale': 0}))
    mean = rows.mean(0)
    radius = c * mean.norm()
    assert (direction - mean).norm() <= radius + 1e-5
    worst = (rows @ direction).min()
    around = torch.randn(4000, 5, generator=torch.Generator().manual_seed(seed))
    others = mean + radius * around / around.norm(dim=1, keepdim=True)
    assert worst >= (others @ rows.T).min(dim=1).values.max() - 1e-5
    rescaled, _ = toy.step(toy.make('CAGrad', {'c': c}))
    close(rescaled * (1 + c**2), direction)


def test_cagrad_of_two_tasks_by_a_fine_search():
    rows = torch.tensor(CONFLICT)
    mean, c = rows.mean(0), 0.5
    w = torch.linspace(0, 1, 200001, dtype=torch.float64)[:, None]
    mixed = w * rows[0] + (1 - w) * rows[1]
    value = mixed @ mean.double() + c * mean.norm() * mixed.norm(dim=1)
    best = mixed[value.argmin()]
    toy = Toy(CONFLICT)
    direction, _ = toy.step(toy.make('CAGrad', {'c': c, 'rescale': 0}))
    close(direction, mean + c * mean.norm() * best / best.norm(), 1e-4)


@pytest.mark.parametrize('seed', range(3))
def test_imtl_g_projects_equally_on_all(seed):
    rows = random_rows(seed)
    toy = Toy(rows)
    direction, weights = toy.step(toy.make('IMTL-G'))
    projections = rows @ direction / rows.norm(dim=1)
    close(projections, projections.mean().expand(4), 1e-4)
    close(sum(weights.values()), 1.0)


@pytest.mark.parametrize('seed', range(3))
def test_nash_mtl_solves_its_equation(seed):
    rows = random_rows(seed)
    toy = Toy(rows)
    direction, weights = toy.step(toy.make('Nash-MTL', {'max_norm': 0}))
    alpha = torch.tensor(list(weights.values()))
    assert (alpha > 0).all()
    close(alpha * (rows @ direction), torch.ones(4), 1e-4)
    close(direction.norm(), 2.0, 1e-4)  # sqrt(M)
    limited, _ = toy.step(toy.make('Nash-MTL'))
    close(limited, direction / 2, 1e-4)


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0, 10.0])
def test_fairgrad_solves_its_equation(alpha):
    rows = random_rows(1)
    toy = Toy(rows)
    direction, weights = toy.step(toy.make('FairGrad', {'alpha': alpha}))
    w = torch.tensor(list(weights.values()))
    close(rows @ direction, w ** (-1 / alpha), 1e-4)


def test_fairgrad_of_one_is_nash_mtl():
    toy = Toy(random_rows(5))
    nash, _ = toy.step(toy.make('Nash-MTL', {'max_norm': 0}))
    close(toy.step(toy.make('FairGrad'))[0], nash)


@pytest.mark.parametrize('name', ['Nash-MTL', 'FairGrad'])
def test_fair_heads_are_plain_as_in_the_papers_or_weighted_as_in_their_code(name):
    """LibMTL: sum_i a_i L_i is differentiated; Nash-MTL's a are of the Gramian over its norm."""
    rows = random_rows(5)
    toy = Toy(rows)
    plain, weights = toy.step(toy.make(name))
    assert all(head.grad.item() == 1 for head in toy.heads.values())
    direction, _ = toy.step(toy.make(name, {'heads': 'weighted'}))
    assert torch.equal(direction, plain)
    factors = torch.tensor([head.grad.item() for head in toy.heads.values()])
    gramian = gram(rows).float()
    if name == 'FairGrad':
        close(factors, list(weights.values()))
    else:
        gramian = gramian / gramian.norm()
    close(gramian @ factors, 1 / factors, 1e-4)


@pytest.mark.parametrize('seed', range(30))
def test_alpha_fair_solver_finds_hard_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    scales = 10 ** (4 * torch.rand(5, 1, generator=generator) - 2)
    gramian = gram(random_rows(seed, 5, 7) * scales)
    for alpha in (0.5, 1, 2, 5):
        x = alpha_fair(gramian, alpha)
        close((gramian @ x) * x ** (1 / alpha), torch.ones(5), 1e-6)


@pytest.mark.parametrize('scale', ['min', 'median', 'rmse'])
def test_aligned_mtl_has_condition_number_one(scale):
    """Weights of unit preferences give back the aligned gradients; their singular values agree."""
    rows = random_rows(2)
    toy = Toy(rows)
    direction, _ = toy.step(toy.make('AlignedMTL', {'scale': scale}))
    u, s, vt = torch.linalg.svd(rows, full_matrices=False)
    size = {'min': s.min(), 'median': (s**2).median().sqrt(), 'rmse': (s**2).mean().sqrt()}[scale]
    aligned = size * (u @ vt)
    close(direction, aligned.mean(0), 1e-4)  # LibMTL: their sum, T times as long
    assert torch.linalg.cond(aligned).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize('seed', range(6))
def test_upgrad_conflicts_with_no_task(seed):
    rows = random_rows(seed) - 0.3
    toy = Toy(rows)
    direction, _ = toy.step(toy.make('UPGrad'))
    assert (rows @ direction >= -1e-5).all()


def test_upgrad_is_the_projection_of_two_tasks():
    toy = Toy(CONFLICT)
    direction, _ = toy.step(toy.make('UPGrad'))
    g1, g2 = (torch.tensor(row) for row in CONFLICT)
    # For two tasks the dual cone's nearest point takes away the conflict with the other.
    p1 = g1 - (g1 @ g2) / (g2 @ g2) * g2
    p2 = g2 - (g1 @ g2) / (g1 @ g1) * g1
    close(direction, (p1 + p2) / 2)
    close(toy.step(toy.make('UPGrad'), rows=[[1.0, 0.0], [1.0, 1.0]])[0], [1.0, 0.5])


@pytest.mark.parametrize('seed', range(10))
def test_nonnegative_qp_meets_the_kkt_conditions(seed):
    rows = random_rows(seed, 5, 3 if seed % 2 else 6)  # singular for odd seeds
    gramian = gram(rows)
    u = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z = nonnegative_qp(gramian, gramian @ u)
    slope = gramian @ (z + u)
    assert (z >= 0).all() and (slope >= -1e-9).all()
    assert abs(z @ slope) < 1e-9


@pytest.mark.parametrize('seed', range(3))
def test_config_has_equal_cosines_and_the_projections_length(seed):
    rows = random_rows(seed)
    toy = Toy(rows)
    direction, _ = toy.step(toy.make('ConFIG'))
    cosines = rows @ direction / rows.norm(dim=1) / direction.norm()
    close(cosines, cosines.mean().expand(4), 1e-4)
    close(direction.norm(), (rows @ direction).sum() / direction.norm(), 1e-4)


def test_config_is_torchjds():
    from torchjd.aggregation import ConFIG

    rows = random_rows(8)
    toy = Toy(rows)
    close(toy.step(toy.make('ConFIG'))[0], ConFIG()(rows), 1e-4)
