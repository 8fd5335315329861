"""Real data under the models that their textbooks give them: is `qphi.fit` right, and does it say so?

Sleep study (Belenky et al. 2003), toenail infection (De Backer et al. 1998), and of Gelman and Hill (2007) the polls
of 1988 (ch. 14), radon in Minnesota (ch. 12), roaches (ch. 6) and arsenic wells (ch. 5), and R's Old Faithful.
Effects of groups are written as people write them first, centred; the toenail's in both forms. The reference is
NumPyro's NUTS, 4 chains of 1,000 + 5,000, float64, acceptance 0.95; its own R-hat is shown, its seconds are of all its
draws. Right, silent failure and false alarm are as in everyday.py.

References take minutes and are kept in benchmarks/results/real_models.json; --references makes them again. Writes the
table of docs/verdicts.md.

    JAX_ENABLE_X64=1 QPHI_DATA=folder python benchmarks/real_models.py
    JAX_ENABLE_X64=1 QPHI_DATA=folder python benchmarks/real_models.py --only radon --seeds 1
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

from _against_nuts import Program, compare
from _results import need_data


def main() -> None:
    need_data()
    compare("real_models", __doc__ or "", models(), smoke="wells", draws=5000)


def models() -> dict[str, Program]:
    """Each program with its data."""
    toenail, roaches, eruptions = _toenail(), _roaches(), _eruptions()
    return {
        "sleepstudy": Program(sleepstudy, _sleepstudy()),
        "toenail": Program(toenail_trial, toenail),
        "toenail_scaled": Program(toenail_scaled, toenail),
        "polls": Program(polls, _polls()),
        "radon": Program(radon, _radon()),
        "roaches": Program(roaches_overdispersed, roaches),
        "roaches_each": Program(roaches_each, roaches),
        "wells": Program(wells, _wells()),
        "faithful": Program(faithful, (eruptions,)),
        "faithful_labels": Program(faithful_labels, (eruptions[:, 1],), swapped=True),
    }


def _table(name: str, **how: Any) -> pd.DataFrame:
    return pd.read_csv(Path(os.environ["QPHI_DATA"]).expanduser() / "models" / name, **how)


def _codes(column: pd.Series) -> np.ndarray:
    return pd.factorize(column)[0]


def _sleepstudy() -> tuple[Any, ...]:
    table = _table("lme4_sleepstudy.csv.gz")
    return _codes(table.Subject), table.Days.to_numpy(float), table.Reaction.to_numpy()


def sleepstudy(subject, days, reaction):
    """Intercepts and slopes of subjects, correlated."""
    mean = numpyro.sample("mean", dist.Normal(jnp.array([250.0, 10.0]), jnp.array([100.0, 20.0])).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(jnp.array([50.0, 20.0])).to_event(1))
    corner = numpyro.sample("corner", dist.LKJCholesky(2, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(50.0))
    with numpyro.plate("subjects", 18):
        line = numpyro.sample("line", dist.MultivariateNormal(mean, scale_tril=scale[:, None] * corner))
    numpyro.sample("y", dist.Normal(line[subject, 0] + line[subject, 1] * days, sigma), obs=reaction)


def _toenail() -> tuple[Any, ...]:
    table = _table("lme4_toenail.csv.gz")
    treated = (table.treatment == "terbinafine").to_numpy(float)
    bad = (table.outcome != "none or mild").to_numpy(int)
    return _codes(table.patientID), table.time.to_numpy() / 10, treated, bad


def toenail_trial(patient, time, treated, bad):
    """Logistic, an intercept for each of 294 patients, centred."""
    b = numpyro.sample("b", dist.Normal(0, 5).expand([4]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(5.0))
    with numpyro.plate("patients", 294):
        u = numpyro.sample("u", dist.Normal(0, scale))
    logits = b[0] + b[1] * treated + b[2] * time + b[3] * treated * time + u[patient]
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=bad)


def toenail_scaled(patient, time, treated, bad):
    """The same with standard normal effects times their scale."""
    b = numpyro.sample("b", dist.Normal(0, 5).expand([4]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(5.0))
    with numpyro.plate("patients", 294):
        u = numpyro.sample("u", dist.Normal(0, 1))
    logits = b[0] + b[1] * treated + b[2] * time + b[3] * treated * time + scale * u[patient]
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=bad)


def _polls() -> tuple[Any, ...]:
    table = _table("polls88_subset.dat.gz", sep=r"\s+")
    table = table[table.bush.isin([0, 1])]
    age, edu = table.age.to_numpy() - 1, table.edu.to_numpy() - 1
    female, black = table.female.to_numpy(float), table.black.to_numpy(float)
    return _codes(table.state), age, edu, female, black, table.bush.to_numpy(int)


def polls(state, age, edu, female, black, bush):
    """Logistic, effects of 49 states, ages, educations and their pairs, as for poststratification."""
    b = numpyro.sample("b", dist.Normal(0, 2).expand([4]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0).expand([4]).to_event(1))
    with numpyro.plate("states", 49):
        of_state = numpyro.sample("of_state", dist.Normal(0, scale[0]))
    with numpyro.plate("ages", 4):
        of_age = numpyro.sample("of_age", dist.Normal(0, scale[1]))
    with numpyro.plate("edus", 4):
        of_edu = numpyro.sample("of_edu", dist.Normal(0, scale[2]))
    with numpyro.plate("pairs", 16):
        of_pair = numpyro.sample("of_pair", dist.Normal(0, scale[3]))
    fixed = b[0] + b[1] * female + b[2] * black + b[3] * female * black
    logits = fixed + of_state[state] + of_age[age] + of_edu[edu] + of_pair[4 * age + edu]
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=bush)


def _radon() -> tuple[Any, ...]:
    table = _table("radon_minnesota.csv.gz")
    return _codes(table.county), table.uranium.to_numpy(), table.basement.to_numpy(float), table["log.radon"].to_numpy()


def radon(county, uranium, floor, level):
    """Intercepts and slopes of 85 counties, a predictor of counties, half-Cauchy scales."""
    a = numpyro.sample("a", dist.Normal(0, 5))
    of_uranium = numpyro.sample("of_uranium", dist.Normal(0, 2))
    of_floor = numpyro.sample("of_floor", dist.Normal(0, 2))
    scale = numpyro.sample("scale", dist.HalfCauchy(1.0))
    scale_floor = numpyro.sample("scale_floor", dist.HalfCauchy(1.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1.0))
    with numpyro.plate("counties", 85):
        of_county = numpyro.sample("of_county", dist.Normal(0, scale))
        of_county_floor = numpyro.sample("of_county_floor", dist.Normal(0, scale_floor))
    mean = a + of_uranium * uranium + of_county[county] + (of_floor + of_county_floor[county]) * floor
    numpyro.sample("y", dist.Normal(mean, sigma), obs=level)


def _roaches() -> tuple[Any, ...]:
    table = _table("roaches.csv.gz")
    x = np.column_stack([np.ones(len(table)), table.roach1 / 100, table.treatment, table.senior])
    return x, table.exposure2.to_numpy(), table.y.to_numpy()


def roaches_overdispersed(x, exposure, y):
    """Negative binomial counts with an exposure."""
    b = numpyro.sample("b", dist.Normal(0, 3).expand([4]).to_event(1))
    size = numpyro.sample("size", dist.Exponential(1.0))
    numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(x @ b + jnp.log(exposure)), size), obs=y)


def roaches_each(x, exposure, y):
    """Poisson counts, an effect for each of 262 flats."""
    b = numpyro.sample("b", dist.Normal(0, 3).expand([4]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("flats", len(y)):
        u = numpyro.sample("u", dist.Normal(0, scale))
    numpyro.sample("y", dist.Poisson(jnp.exp(x @ b + jnp.log(exposure) + u)), obs=y)


def _wells() -> tuple[Any, ...]:
    table = _table("wells.csv.gz")
    distance, arsenic = table.dist.to_numpy(), table.arsenic.to_numpy()
    x = np.column_stack([np.ones(len(table)), distance, arsenic, table.educ, distance * arsenic])
    return x, table.switch.to_numpy()


def wells(x, switch):
    """Logistic regression, predictors in the units that they came in (metres)."""
    b = numpyro.sample("b", dist.Normal(0, 10).expand([5]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=switch)


def _eruptions() -> np.ndarray:
    return _table("datasets_faithful.csv.gz")[["eruptions", "waiting"]].to_numpy(float)


def faithful(y):
    """Two correlated Gaussians in the plane, the second above the first."""
    weight = numpyro.sample("weight", dist.Beta(2, 2))
    first = numpyro.sample("first", dist.Normal(jnp.array([3.0, 70.0]), jnp.array([3.0, 30.0])).to_event(1))
    gap = numpyro.sample("gap", dist.HalfNormal(jnp.array([3.0, 40.0])).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(jnp.array([1.0, 10.0])).expand([2, 2]).to_event(2))
    corner = numpyro.sample("corner", dist.LKJCholesky(2, 2.0).expand([2]))
    parts = dist.MultivariateNormal(jnp.stack([first, first + gap]), scale_tril=scale[:, :, None] * corner)
    weights = dist.Categorical(jnp.stack([1 - weight, weight]))
    with numpyro.plate("eruptions", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, parts), obs=y)


def faithful_labels(waiting):
    """Two Gaussians that may swap their labels: two equal modes."""
    weight = numpyro.sample("weight", dist.Dirichlet(jnp.ones(2)))
    mean = numpyro.sample("mean", dist.Normal(70, 20).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(10.0).expand([2]).to_event(1))
    with numpyro.plate("eruptions", len(waiting)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), dist.Normal(mean, scale)), obs=waiting)


if __name__ == "__main__":
    main()
