"""PyMC models as targets: known answers. Runs where PyMC is installed: pip install -c constraints.txt '.[pymc]'"""

from __future__ import annotations

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qphi
from qphi.precision import double
from qphi.targets import as_target

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its next version
    pm = pytest.importorskip("pymc")

# of PyTensor, on machines without a BLAS library or compiler for its own backend
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytensor", "ignore::FutureWarning:arviz")
KEY = jax.random.key(0)
Y = np.array([1.2, 0.3, 0.8, 1.9])


def conjugate():
    with pm.Model() as model:
        mu = pm.Normal("mu", -0.5, 1.5)
        pm.Deterministic("twice", 2 * mu)
        pm.Normal("y", mu, 0.7, observed=Y)
    return model


def test_a_conjugate_model_has_its_posterior_and_evidence():
    variance = 1 / (1 / 1.5**2 + len(Y) / 0.7**2)
    mean = variance * (-0.5 / 1.5**2 + Y.sum() / 0.7**2)
    posterior = qphi.fit(conjugate(), key=KEY)
    assert posterior.verdict.trust == "trusted"
    assert posterior.mean()["mu"] == pytest.approx(mean, abs=1e-6)
    assert posterior.sd()["mu"] == pytest.approx(variance**0.5, rel=0.02)
    assert posterior.mean()["twice"] == pytest.approx(2 * mean, abs=1e-5)
    evidence = stats.multivariate_normal(np.full(4, -0.5), 0.49 * np.eye(4) + 1.5**2).logpdf(Y)
    assert posterior.log_evidence == pytest.approx(evidence, abs=1e-3)


def test_constrained_values_have_their_names_supports_and_jacobians():
    with pm.Model() as model:
        pm.Gamma("rate", 3.0, 2.0)
        pm.Dirichlet("w", np.array([2.0, 3.0, 4.0]))
    with double():
        target = as_target(model)
        assert target.shapes() == {"rate": (), "w": (3,)}
        values = target.constrain(jnp.array([0.3, 0.1, -0.2]))
        assert values["rate"] == pytest.approx(np.exp(0.3))
        assert values["w"].sum() == pytest.approx(1.0)
        # log Gamma(3, 2) density of rate, times d rate / d z
        moved = target.log_density(jnp.array([0.3, 0.1, -0.2])) - target.log_density(jnp.array([0.0, 0.1, -0.2]))
    law = stats.gamma(3, scale=0.5)
    assert moved == pytest.approx(law.logpdf(np.exp(0.3)) - law.logpdf(1.0) + 0.3)
    posterior = qphi.fit(model, key=KEY)
    np.testing.assert_allclose(posterior.mean()["w"], np.array([2, 3, 4]) / 9, atol=0.01)
    assert posterior.mean()["rate"] == pytest.approx(1.5, abs=0.02)
    assert set(posterior.sample(KEY, 10)) == {"rate", "w"}


def test_what_cannot_be_fitted_is_refused():
    with pm.Model() as model:
        pm.Poisson("n", 3.0)
        pm.Bernoulli("b", 0.5)
        pm.Normal("x", 0, 1)
    with pytest.raises(qphi.InputError, match=r"n, b are discrete.*pm\.Mixture"):
        qphi.fit(model, key=KEY)
    with pytest.raises(qphi.InputError, match="no free variable"):
        qphi.fit(pm.Model(), key=KEY)
    with pytest.raises(TypeError, match=r"a PyMC model is complete, but further arguments were given"):
        qphi.fit(conjugate(), Y, key=KEY)


def test_pymc_is_imported_by_nobody_but_the_user():
    code = "import qphi, jax, sys; qphi.fit(lambda v: -v['x']**2, example={'x': 0.}, key=jax.random.key(0));"
    code += "print('pymc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
