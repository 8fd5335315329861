"""Targets: log densities and Jacobians against formulas and against NumPyro's own, and errors by message."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.util import constrain_fn, potential_energy

import qphi
from qphi.errors import InputError
from qphi.targets import LogDensity, NumPyroTarget, as_target, finite_start
from qphi.targets.base import component_names, split

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def unconstrained(target, count):
    """Points in Stan's box of starts."""
    return jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (count, target.dim)))


def log_sigmoid(z):
    return -np.log1p(np.exp(-z))


def simplex_by_hand(z):
    """Stick breaking with Stan's offsets, v_k = sigmoid(z_k - log(K - k)); dx_k/dz_k = v (1 - v) rest."""
    left, log_jacobian, x = 1.0, 0.0, []
    for k, z_k in enumerate(z):
        v = 1 / (1 + np.exp(-(z_k - np.log(len(z) - k))))
        log_jacobian += np.log(v) + np.log1p(-v) + np.log(left)
        x.append(v * left)
        left *= 1 - v
    return np.array([*x, left]), log_jacobian


def ordered_by_hand(z):
    return np.cumsum([z[0], *np.exp(z[1:])]), np.sum(z[1:])


def corr_cholesky_by_hand(z):
    """Two rows: the second is (r, sqrt(1 - r^2)) with r = tanh z, and the free coordinate is r."""
    r = np.tanh(z[0])
    return np.array([[1, 0], [r, np.sqrt(1 - r**2)]]), np.log1p(-(r**2))


BY_HAND = {
    "real": (constraints.real, np.zeros(2), lambda z: (z, 0.0)),
    "positive": (constraints.positive, np.ones(2), lambda z: (np.exp(z), z.sum())),
    "unit_interval": (
        constraints.unit_interval,
        np.full(2, 0.5),
        lambda z: (np.exp(log_sigmoid(z)), np.sum(log_sigmoid(z) + log_sigmoid(-z))),
    ),
    "interval": (
        constraints.interval(2.0, 5.0),
        np.full(2, 3.0),
        lambda z: (2 + 3 * np.exp(log_sigmoid(z)), np.sum(np.log(3) + log_sigmoid(z) + log_sigmoid(-z))),
    ),
    "greater_than": (constraints.greater_than(1.0), np.full(2, 2.0), lambda z: (1 + np.exp(z), z.sum())),
    "simplex": (constraints.simplex, np.full(3, 1 / 3), simplex_by_hand),
    "ordered": (constraints.ordered_vector, np.array([-1.0, 0.0, 2.0]), ordered_by_hand),
    "corr_cholesky": (constraints.corr_cholesky, np.eye(2), corr_cholesky_by_hand),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_log_density_is_the_users_plus_the_log_jacobian(name):
    support, example, by_hand = BY_HAND[name]
    with jax.enable_x64(True):
        target = LogDensity(lambda v: jnp.sum(jnp.sin(v["x"])), {"x": example}, supports={"x": support})
        for seed in range(3):
            z = np.random.default_rng(seed).normal(size=target.dim)
            x, log_jacobian = by_hand(z)
            np.testing.assert_allclose(target.constrain(jnp.asarray(z))["x"], x, atol=1e-12)
            np.testing.assert_allclose(target.log_density(jnp.asarray(z)), np.sin(x).sum() + log_jacobian, atol=1e-11)


@pytest.mark.parametrize(
    ("support", "example", "free"),
    [
        (constraints.corr_cholesky, np.eye(3), np.tril_indices(3, -1)),
        (constraints.simplex, np.full(4, 0.25), (np.arange(3),)),
        (constraints.lower_cholesky, np.eye(3), np.tril_indices(3)),
        (constraints.positive_ordered_vector, np.array([1.0, 2.0, 3.0]), (np.arange(3),)),
    ],
    ids=["corr_cholesky", "simplex", "lower_cholesky", "positive_ordered"],
)
def test_log_jacobian_is_the_determinant_of_the_free_coordinates(support, example, free):
    with jax.enable_x64(True):
        target = LogDensity(lambda v: 0.0 * jnp.sum(v["x"]), {"x": example}, supports={"x": support})
        z = unconstrained(target, 1)[0]
        jacobian = jax.jit(jax.jacfwd(lambda z: target.constrain(z)["x"][free]))(z)
        np.testing.assert_allclose(target.log_density(z), np.linalg.slogdet(jacobian)[1], atol=1e-10)


@pytest.mark.parametrize(
    ("law", "example", "support"),
    [
        (dist.Gamma(3.0, 2.0), 1.0, constraints.positive),
        (dist.Beta(2.0, 3.0), 0.5, constraints.unit_interval),
        (dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])), np.full(3, 1 / 3), constraints.simplex),
    ],
    ids=["gamma", "beta", "dirichlet"],
)
def test_a_normalised_density_still_integrates_to_one_over_z(law, example, support):
    with jax.enable_x64(True):
        target = LogDensity(lambda v: law.log_prob(v["x"]), {"x": example}, supports={"x": support})
        axis = np.linspace(-25, 25, 501)
        grid = np.stack(np.meshgrid(*[axis] * target.dim), axis=-1).reshape(-1, target.dim)
        mass = np.exp(target.log_density_many(jnp.asarray(grid))).sum() * (axis[1] - axis[0]) ** target.dim
        np.testing.assert_allclose(mass, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("support", "example"),
    [
        (constraints.zero_sum(1), np.array([1.0, -2.0, 1.0])),
        (constraints.corr_matrix, np.eye(3)),
        (constraints.positive_definite, np.eye(2)),
        (constraints.l1_ball, np.array([0.1, 0.2])),
        (constraints.softplus_positive, np.array(2.0)),
        (constraints.circular, np.array(0.3)),
        (constraints.independent(constraints.simplex, 1), np.full((2, 3), 1 / 3)),
        (constraints.simplex, np.full((4, 3), 1 / 3)),
    ],
)
def test_every_support_starts_at_its_example_and_has_gradients(support, example):
    target = LogDensity(lambda v: -jnp.sum(v["x"] ** 2), {"x": example}, supports={"x": support})
    z = target.start(jax.random.key(0))
    assert z.shape == (target.dim,)
    np.testing.assert_allclose(target.constrain(z)["x"], example, atol=2e-6)
    assert np.isfinite(jax.jit(jax.grad(target.log_density))(z)).all()
    assert target.shapes() == {"x": example.shape}


def test_values_keep_names_shapes_and_order():
    example = {"mu": 0.0, "theta": jnp.zeros((2, 3)), "tau": 1}
    seen = []

    def log_density(values, scale):
        seen.append({name: value.shape for name, value in values.items()})
        return -jnp.sum(values["theta"] ** 2) / scale - values["mu"] ** 2 - values["tau"]

    target = LogDensity(log_density, example, supports={"tau": constraints.positive}, args=(jnp.array(2.0),))
    assert target.dim == 8
    assert list(target.shapes()) == ["mu", "theta", "tau"]
    assert seen[-1] == {"mu": (), "theta": (2, 3), "tau": ()}
    assert target.real_blocks() == {"mu": slice(0, 1), "theta": slice(1, 7)}
    assert target.constrain(jnp.arange(8.0))["theta"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert list(component_names("theta", (2, 3)))[3] == "theta[1,0]"


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        eta = numpyro.sample("eta", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def plates(y):
    with numpyro.plate("rows", 2, dim=-2):
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
        with numpyro.plate("columns", 3, dim=-1):
            b = numpyro.sample("b", dist.Normal(a, 1.0))
            p = numpyro.sample("p", dist.Dirichlet(jnp.ones(4)))
            numpyro.sample("y", dist.Normal(b + p[..., 0], 1.0), obs=y)


def dependent_supports(y):
    top = numpyro.sample("top", dist.LogNormal(0.0, 1.0))
    inside = numpyro.sample("inside", dist.Uniform(0.0, top))
    above = numpyro.sample("above", dist.ImproperUniform(constraints.greater_than(inside), (), (2,)))
    numpyro.sample("y", dist.Normal(inside, above.sum()), obs=y)


def factors_and_matrices():
    chol = numpyro.sample("chol", dist.LKJCholesky(3, 2.0))
    cuts = numpyro.sample("cuts", dist.ImproperUniform(constraints.ordered_vector, (), (3,)))
    numpyro.factor("prior", -jnp.sum(cuts**2) + jnp.linalg.slogdet(chol)[1])
    numpyro.deterministic("corr", chol @ chol.T)


def scanned(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(state, y_t):
        x = numpyro.sample("x", dist.LogNormal(state, scale))
        part = numpyro.sample("part", dist.Uniform(0.0, x))
        numpyro.sample("y", dist.Normal(part, 1.0), obs=y_t)
        return jnp.log(x), numpyro.deterministic("twice", 2 * part)

    scan(step, 0.0, y)


def masked_and_scaled(y, known):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with handlers.mask(mask=known), handlers.scale(scale=2.5):
        numpyro.sample("y", dist.StudentT(3.0, mu, 1.0), obs=y)


PROGRAMS = {
    "eight_schools": (eight_schools, (Y, SIGMA), {"mu", "tau", "eta", "theta"}),
    "plates": (plates, (np.arange(6.0).reshape(2, 3),), {"a", "b", "p"}),
    "dependent_supports": (dependent_supports, (Y,), {"top", "inside", "above"}),
    "factors_and_matrices": (factors_and_matrices, (), {"chol", "cuts", "corr"}),
    "scanned": (scanned, (np.arange(4.0),), {"scale", "x", "part", "twice"}),
    "masked_and_scaled": (masked_and_scaled, (Y, Y > 0), {"mu"}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpyro_programs_agree_with_numpyro(name):
    model, args, reported = PROGRAMS[name]
    with jax.enable_x64(True):
        target = as_target(model, *args)
        args = tuple(map(jnp.asarray, args))
        assert set(target.shapes()) == reported

        def numpyros(z):
            blocks = split(z, target.sites)
            values = constrain_fn(model, args, {}, blocks, return_deterministic=True)
            return -potential_energy(model, args, {}, blocks), values

        z = unconstrained(target, 3)
        log_density, values = jax.jit(jax.vmap(numpyros))(z)
        np.testing.assert_allclose(target.log_density_many(z), log_density, rtol=1e-10)
        parts = jax.vmap(target.log_density_parts)(z)
        np.testing.assert_allclose(sum(parts.values()), log_density, rtol=1e-10)
        for name, value in jax.vmap(target.constrain)(z).items():
            np.testing.assert_allclose(value, values[name], rtol=1e-10, err_msg=name)
            assert value.shape[1:] == target.shapes()[name]


def test_scaling_a_latent_leaves_its_jacobian_alone():
    def model():
        with handlers.scale(scale=2.0):
            numpyro.sample("x", dist.LogNormal(0.0, 1.0))

    z = jnp.array([0.7])
    expected = 2 * dist.LogNormal(0.0, 1.0).log_prob(jnp.exp(z[0])) + z[0]
    np.testing.assert_allclose(NumPyroTarget(model).log_density(z), expected, rtol=1e-6)


def test_keywords_and_constants_reach_the_program():
    def model(n, *, y=None, wide=False):
        mu = numpyro.sample("mu", dist.Normal(0, 10.0 if wide else 1.0).expand([n]).to_event(1))
        numpyro.sample("y", dist.Normal(mu.sum(), 1), obs=y)

    z, y = jnp.array([1.0, 2.0]), np.array([3.0])
    narrow, wide = as_target(model, 2, y=y), as_target(model, 2, y=y, wide=True)
    expected = dist.Normal(0, 10.0).log_prob(z).sum() - dist.Normal(0, 1.0).log_prob(z).sum()
    np.testing.assert_allclose(wide.log_density(z) - narrow.log_density(z), expected, rtol=1e-5)


def test_new_data_of_the_same_shape_compile_nothing():
    runs = []

    def model(y):
        runs.append("NumPyro")
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    def log_density(values, y):
        runs.append("plain")
        return -jnp.sum((values["mu"] - y) ** 2)

    for make in (lambda y: as_target(model, y), lambda y: as_target(log_density, y, example={"mu": 0.0})):
        z, first, second = jnp.array([0.2]), make(np.zeros(3)), make(np.ones(3))
        values = [float(first.log_density(z))]
        runs.clear()
        values.append(float(second.log_density(z)))
        assert not runs
        assert values[0] != values[1]


def test_a_distributions_own_validation_does_not_raise_outside_the_support():
    def model(y):
        scale = numpyro.sample("scale", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(0.0, scale, validate_args=True), obs=y)

    def log_density(values, y):
        return dist.Normal(0.0, values["scale"], validate_args=True).log_prob(y).sum()

    for target in (as_target(model, Y), as_target(log_density, Y, example={"scale": 1.0})):
        assert np.isnan(target.log_density(jnp.array([-1.0])))
        assert np.isfinite(target.log_density(jnp.array([1.0])))


def test_finite_start_looks_until_it_finds_one():
    def model():
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.factor("wall", jnp.where(x > 1.5, -(x**2), jnp.nan))

    for seed in range(3):
        assert finite_start(NumPyroTarget(model), jax.random.key(seed))[0] > 1.5


def test_finite_start_counts_and_names_what_is_broken():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("bad_term", jnp.log(-jnp.exp(x)))

    with pytest.raises(InputError, match=r"None of 100 starts.*100 NaN, 0 infinite.*bad_term = nan"):
        finite_start(NumPyroTarget(model), jax.random.key(0))


def test_float64_when_enabled_and_float32_otherwise():
    def make():
        return LogDensity(lambda v: -jnp.sum(v["x"] ** 2), {"x": np.ones(2)})

    assert make().log_density(jnp.ones(2)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert make().log_density(make().start(jax.random.key(0))).dtype == jnp.float64


def plain(values):
    return -jnp.sum(values["x"] ** 2)


BAD_DENSITIES = {
    "vector": (lambda v: v["x"] ** 2, {"x": jnp.zeros(3)}, {}, r"array of shape \(3,\); one number"),
    "tuple": (lambda v: (v["x"], 1), {"x": 0.0}, {}, "a tuple; one number"),
    "nothing": (lambda v: None, {"x": 0.0}, {}, "a NoneType; one number"),
    "complex": (lambda v: v["x"] * 1j, {"x": 0.0}, {}, "complex number; a real one"),
    "raises": (lambda v: v["y"], {"x": 0.0}, {}, "raised KeyError: 'y'.*run on the example"),
    "numpy": (lambda v: np.sin(float(v["x"])), {"x": 0.0}, {}, "cannot be traced.*jax.numpy"),
    "nan": (lambda v: jnp.log(v["x"]), {"x": -1.0}, {}, "at the example is nan; a finite one"),
    "unknown": (
        plain,
        {"x": 0.0},
        {"tau": constraints.positive},
        "supports names 'tau'; the example has 'x'",
    ),
    "discrete": (
        plain,
        {"x": 0.0},
        {"x": constraints.boolean},
        "Boolean; a continuous real support.*logsumexp",
    ),
    "sphere": (plain, {"x": jnp.array([1.0, 0.0])}, {"x": constraints.sphere}, "no map from unconstrained"),
    "outside": (plain, {"x": -1.0}, {"x": constraints.positive}, "outside, or at the edge of"),
    "edge": (plain, {"x": 1.0}, {"x": constraints.unit_interval}, "outside, or at the edge of"),
    "scalar simplex": (
        plain,
        {"x": 1.0},
        {"x": constraints.simplex},
        r"shape \(\); Simplex needs at least 1",
    ),
    "empty": (plain, {"x": jnp.zeros(0)}, {}, r"shape \(0,\).*not empty"),
    "bool": (plain, {"x": True}, {}, "dtype bool; a real array"),
}


@pytest.mark.parametrize("name", BAD_DENSITIES)
def test_a_log_density_that_cannot_be_used_is_refused(name):
    function, example, supports, message = BAD_DENSITIES[name]
    with pytest.raises(InputError, match=message) as caught:
        LogDensity(function, example, supports=supports)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, {"x": 0.0}), "log_density is a int"),
        ((plain, [0.0]), "example is .*a dict from each name"),
        ((plain, {}), "example is .*a dict from each name"),
        ((plain, {"x": "a"}), r"example\['x'\] is a str; a number"),
    ],
)
def test_arguments_of_the_wrong_kind_are_type_errors(arguments, message, wrong_types):
    with pytest.raises(TypeError, match=message):
        LogDensity(*arguments)
    with pytest.raises(TypeError, match=r"a constraint from numpyro\.distributions\.constraints"):
        LogDensity(plain, {"x": 0.0}, supports={"x": "positive"})
    with pytest.raises(TypeError, match="dtype object"):
        LogDensity(plain, {"x": 0.0}, args=(np.array(["a", None], object),))


def discrete():
    numpyro.sample("k", dist.Categorical(jnp.ones(3) / 3))


def only_data():
    numpyro.sample("y", dist.Normal(0, 1), obs=1.0)


def with_param():
    numpyro.sample("x", dist.Normal(numpyro.param("loc", 0.0), 1))


def subsampled():
    with numpyro.plate("data", 100, subsample_size=10):
        numpyro.sample("x", dist.Normal(0, 1))


def delta():
    numpyro.sample("x", dist.Delta(jnp.zeros(3)).to_event(1))


def half_observed():
    numpyro.sample("y", dist.Normal(jnp.zeros(2), 1), obs=jnp.zeros(2), obs_mask=jnp.array([True, False]))


def negative_counts():
    rate = numpyro.sample("rate", dist.Gamma(1, 1))
    numpyro.sample("y", dist.Poisson(rate), obs=np.array([3, -1, -2]))


def missing_data():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=np.array([1.0, np.nan]))


def branching():
    if numpyro.sample("x", dist.Normal(0, 1)) > 0:
        numpyro.sample("y", dist.Normal(0, 1))


def two_arguments(x, y):
    numpyro.sample("z", dist.Normal(x, y))


def on_the_sphere():
    numpyro.sample("x", dist.ProjectedNormal(jnp.ones(3)))


BAD_PROGRAMS = {
    discrete: r"'k' \(CategoricalProbs\) is discrete.*Marginalise",
    only_data: r"no latent site \(it has 'y'\).*example=",
    with_param: "param site 'loc'; a posterior needs priors",
    subsampled: "Latent site 'x' is inside the subsampled plate 'data'",
    delta: "'x' is a Delta.*numpyro.deterministic",
    half_observed: "'y' uses obs_mask.*jnp.where",
    negative_counts: r"2 of 3 observed values of site 'y' are outside .*IntegerNonnegative.*Poisson",
    missing_data: "1 of 2 observed values of site 'y' are not finite",
    branching: r"cannot be traced by JAX \(TracerBoolConversionError\)",
    two_arguments: r"raised TypeError: .*missing 2 required positional arguments.* 0 argument\(s\)",
    on_the_sphere: "'x' has the support Sphere.*no map",
}


@pytest.mark.parametrize("model", BAD_PROGRAMS, ids=lambda model: model.__name__)
def test_a_program_without_a_density_is_refused(model):
    with pytest.raises(InputError, match=BAD_PROGRAMS[model]) as caught:
        as_target(model)
    assert "\n" not in str(caught.value)


def test_what_jax_cannot_trace_says_what_to_change():
    seen = np.array([2.0, 3.0])

    def model():
        top = numpyro.sample("top", dist.HalfNormal(5.0))
        numpyro.sample("y", dist.Uniform(0.0, top), obs=seen)  # NumPy's comparison with a traced bound

    with pytest.raises(InputError, match=r"TracerArrayConversionError.*jnp.asarray\(data\)"):
        qphi.fit(model, key=jax.random.key(0))
    with pytest.raises(InputError, match=r"TracerBoolConversionError.*jnp.where"):
        qphi.fit(lambda v: -(v["x"] ** 2) if v["x"] > 0 else -v["x"], example={"x": 1.0}, key=jax.random.key(0))


def test_data_outside_a_support_that_depends_on_a_latent_have_density_zero():
    def model(y):
        top = numpyro.sample("top", dist.HalfNormal(5.0))
        numpyro.sample("y", dist.Uniform(0.0, top), obs=y)

    target = NumPyroTarget(model, (np.array([2.0]),))
    assert target.log_density(jnp.log(jnp.array([1.9]))) == -np.inf
    assert np.isfinite(target.log_density(jnp.log(jnp.array([2.1]))))


def test_a_program_may_ask_its_data_for_numbers():
    """`np.unique` and `int` need values that jit would hide."""

    def model(group, y, *, most):
        sd = numpyro.sample("sd", dist.HalfNormal(int(most.max())))
        with numpyro.plate("groups", len(np.unique(group))):
            effect = numpyro.sample("effect", dist.Normal(0.0, sd))
        numpyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)

    def plain(group, y):
        sd = numpyro.sample("sd", dist.HalfNormal(4))
        with numpyro.plate("groups", 3):
            effect = numpyro.sample("effect", dist.Normal(0.0, sd))
        numpyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)

    group, y = np.array([0, 2, 1, 1]), np.array([0.3, 1.0, -0.4, 0.1])
    other = NumPyroTarget(plain, (group, y))
    for convert in (np.asarray, jnp.asarray):
        target = NumPyroTarget(model, (convert(group), convert(y)), {"most": convert([4, 1])})
        assert target.shapes() == other.shapes()
        z = unconstrained(other, 3)
        np.testing.assert_allclose(target.log_density_many(z), other.log_density_many(z), rtol=1e-6)


def test_rounding_does_not_put_a_latent_outside_its_support():
    def model():
        numpyro.sample("p", dist.Dirichlet(jnp.ones(2000)))

    target = NumPyroTarget(model)
    z = unconstrained(target, 20)
    assert np.isfinite(target.log_density_many(z)).all()


def test_as_target_says_what_it_accepts():
    target = LogDensity(plain, {"x": 0.0})
    assert as_target(target) is target
    assert isinstance(as_target(plain, example={"x": 0.0}), LogDensity)
    with pytest.raises(TypeError, match=re.escape("Got a dict where a model is needed: a NumPyro program, a PyMC")):
        as_target({"x": 1})
    with pytest.raises(TypeError, match="complete, but further arguments"):
        as_target(target, 3)
    with pytest.raises(TypeError, match="supports was given without example"):
        as_target(plain, supports={"x": constraints.positive})
    with pytest.raises(TypeError, match="scale was given by name"):
        as_target(plain, example={"x": 0.0}, scale=1.0)
