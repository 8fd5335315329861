"""Is a fit right for data that the model itself makes? Simulation-based calibration."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float, Int, PRNGKeyArray
from numpyro import handlers
from scipy import stats
from scipy.special import ndtri

from qphi import theme
from qphi.errors import InputError
from qphi.inference import fit as qphi_fit
from qphi.noise import checked_key, generator
from qphi.precision import double
from qphi.targets.base import component_names
from qphi.targets.predictive import unobserved
from qphi.verdict import Trust

__all__ = ["Calibration", "calibrate"]

FALSE_ALARM = 0.01  # of a right fit, over all components together
DRAWS = 999  # of each posterior: a thousand ranks
FEWEST = 20
LIKELIHOOD = "log likelihood"
_NAMED = 0.05  # a half of a failed test that is as unlikely as this is named
_MOST_PLOTS, _SHOWN, _BINS = 16, 20, 20
_BAND = 0.99


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Where the true values of simulated data lie in their posteriors: uniformly, if the posteriors are right.

    `positions` has an array (fits, *shape) for each latent, and for the log likelihood of the data: the share of the
    posterior's draws that are below the true value, made continuous, so that it is uniform on (0, 1) where the draws
    are the posterior's. `verdicts` counts how the fits ended by their own verdict; `errors` has the messages of those
    that raised an InputError, with counts.
    """

    positions: dict[str, Float[np.ndarray, "fits ..."]]
    trust: tuple[Trust | None, ...]  # of each fit that gave draws; None where it has no verdict
    errors: dict[str, int]

    @property
    def usable(self) -> Calibration:
        """The same for the fits whose own verdict is `trusted` or `corrected` only.

        A verdict depends on the data alone, and given the data a true value is a draw of the posterior: positions are
        uniform for right fits, whichever data are left out.
        """
        kept = np.array([trust is not None and trust.usable for trust in self.trust])
        trust = tuple(trust for trust, keep in zip(self.trust, kept, strict=True) if keep)
        return Calibration({name: value[kept] for name, value in self.positions.items()}, trust, {})

    @property
    def verdicts(self) -> dict[str, int]:
        """How many fits were trusted, corrected, unreliable and failed; 'no verdict' and 'error' where there are."""
        counts = collections.Counter("no verdict" if trust is None else str(trust) for trust in self.trust)
        counts["error"] = sum(self.errors.values())
        return {name: counts[name] for name in (*map(str, Trust), "no verdict", "error") if counts[name]}

    def ranks(self) -> dict[str, Int[np.ndarray, "fits ..."]]:
        """How many of 999 draws of each posterior are below the true value: SBC's ranks."""
        return {name: np.floor(value * (DRAWS + 1)).astype(int) for name, value in self.positions.items()}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each component.

        shift     how far the posterior's mean is off, in sds of the right posterior, were both Gaussian
        width     its sd over the right one's, likewise; no more than a rough figure where positions are extreme
        p_shift   of positions being symmetric about 1/2: the largest excess of true values on one side beyond any
                  distance, exact. This is VSBC's Kolmogorov-Smirnov distance of the positions from their mirror image
        p_width   of |2 position - 1| being uniform: Kolmogorov-Smirnov
        p         of both, by Fisher's method: they are independent where positions are uniform
        """
        return list(self._rows)

    @property
    def wrong(self) -> list[str]:
        """What is wrong, a phrase for each component whose positions are not uniform; one right fit in 100 has any.

        Holm's method over the components, at 1 %.
        """
        rows = sorted(self._rows, key=lambda row: row["p"])
        rejected = itertools.takewhile(
            lambda numbered: numbered[1]["p"] <= FALSE_ALARM / (len(rows) - numbered[0]), enumerate(rows)
        )
        return [f"{row['name']}: {_words(row)}" for _, row in rejected]

    @property
    def verdict(self) -> str:
        """One sentence."""
        fits = len(self.trust)
        if fits < FEWEST:
            return f"nothing can be said: {fits} fits gave draws, {FEWEST} are needed"
        if not self.wrong:
            return f"calibrated, as far as {fits} fits can tell"
        rest = len(self.wrong) - 8
        return "not calibrated: " + "; ".join(self.wrong[:8]) + (f"; and {rest} more" if rest > 0 else "")

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.verdicts.items())
        lines = [
            f"Calibration: {self.verdict}.",
            f"Fits of simulated data: {counts}. A right fit is called wrong once in {round(1 / FALSE_ALARM)} times.",
        ]
        lines += [f"{count} times: {message}" for message, count in self.errors.items()]
        rows = sorted(self._rows, key=lambda row: row["p"])
        cells = [(row["name"], f"{row['shift']:+.2f}", f"{row['width']:.2f}", f"{row['p']:.2g}") for row in rows]
        table = [("", "shift / sd", "width / sd", "p"), *cells[:_SHOWN]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append("")
        for name, *rest in table:
            padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        if len(cells) > _SHOWN:
            lines.append(f"and {len(cells) - _SHOWN} more with larger p")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Histograms of the ranks of the first 16 components as a matplotlib figure.

        The band has 99 of 100 bars of a right fit. Bars high at both ends: posteriors too narrow; in the middle: too
        wide; on the left: too high.
        """
        rows = self._rows[:_MOST_PLOTS]
        fits = len(self.trust)
        bins = int(np.clip(fits // 10, 2, _BINS))
        band = stats.binom(fits, 1 / bins).interval(_BAND)
        across = min(len(rows), 4)
        down = -(-len(rows) // across)
        drawn = theme.figure(2.25 * across, 1.75 * down + 0.5, margins=(0.15, 0.15, 0.4, 0.45))
        grid = drawn.subplots(down, across, squeeze=False, gridspec_kw={"hspace": 0.75, "wspace": 0.12})
        columns = list(itertools.islice(self._columns(), _MOST_PLOTS))
        bad = {phrase.partition(": ")[0] for phrase in self.wrong}
        for plot, found in itertools.zip_longest(grid.flat, columns):
            if found is None:
                plot.set_axis_off()
                continue
            name, positions = found
            theme.style(plot, title=theme.plain(name), grid=None)
            plot.axhspan(*band, color=theme.FAINT)
            edges = np.linspace(0, DRAWS + 1, bins + 1).tolist()
            colour = theme.SECOND if name in bad else theme.ACCENT
            plot.hist(positions * (DRAWS + 1), edges, color=colour, alpha=0.55)
            plot.set_xlim(0, DRAWS + 1)
            plot.set_yticks([])
            plot.spines["left"].set_visible(False)
        return drawn

    @functools.cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return [_row(name, positions) for name, positions in self._columns()]

    def _columns(self) -> Iterator[tuple[str, Float[np.ndarray, " fits"]]]:
        for name, value in self.positions.items():
            flat = value.reshape(len(value), -1)
            yield from zip(component_names(name, value.shape[1:]), flat.T, strict=True)


def calibrate(
    model: Callable[..., Any],
    *args: Any,
    key: PRNGKeyArray,
    simulations: int = 100,
    effort: str = "quick",
    fit: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Calibration:
    """Fit data that a NumPyro program makes, and see whether the fits know what made them.

    `args` and `kwargs` are the program's, as for `qphi.fit`: its observed sites are drawn anew with latents from the
    prior, `simulations` times, and are fitted in the place of what was observed. The rank of each true value among the
    posterior's draws is uniform if the posteriors are right (simulation-based calibration: Talts et al. 2018, arXiv
    1804.06788; its form for variational inference, VSBC: Yao et al. 2018, arXiv 1802.02538). The log likelihood is
    ranked too: it sees fits that take no notice of the data, or of correlations (Modrák et al. 2023).

    100 simulations mostly notice means that are off by half an sd, and sds by a third; 400, half of that. All data
    sets have one shape, and the program is compiled once. What was observed still counts where the program uses it
    otherwise than in `obs=`, as a covariate would.

    fit: what is calibrated, in place of `qphi.fit(..., effort=effort)`: called as `fit(program, data, key=key)`, where
    `program` has its arguments in it and `data` are the observed sites by name, it returns a posterior with
    `sample(key, n)`, or the draws of each latent, (draws, *shape). For a family of your own,
    `functools.partial(qphi.fit, family="mean-field")`.

    Says nothing about whether the model suits the data that were observed, or about fits of data that the prior hardly
    ever makes. Raises InputError for a program that cannot be simulated: without observed sites, with improper priors,
    with `numpyro.factor` or scaled likelihoods.
    """
    if not isinstance(simulations, int) or isinstance(simulations, bool) or simulations < FEWEST:
        raise InputError(f"simulations={simulations!r}; a whole number is needed, {FEWEST} or more.")
    checked_key(key)
    if fit is not None and effort != "quick":
        raise TypeError("effort has no effect on a fit of your own. Leave it out.")
    chosen = functools.partial(qphi_fit, effort=effort) if fit is None else fit
    simulator_key, fits_key = jax.random.split(key)
    program = _Observed(model, args, kwargs)
    truths, data = _simulate(model, args, kwargs, simulator_key, simulations)
    likelihood = jax.jit(jax.vmap(functools.partial(_log_likelihood, program), (0, None)))
    found: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    trust: list[Trust | None] = []
    errors: collections.Counter[str] = collections.Counter()
    for i in range(simulations):
        fit_key, draw_key = jax.random.split(jax.random.fold_in(fits_key, i))
        observed = {name: np.asarray(value[i]) for name, value in data.items()}
        try:
            posterior = chosen(program, observed, key=fit_key)
        except InputError as error:
            errors[str(error)] += 1
            continue
        draws = _draws(posterior, draw_key, truths)
        verdict = getattr(posterior, "verdict", None)
        trust.append(None if verdict is None else verdict.trust)
        truth = {name: np.asarray(value[i]) for name, value in truths.items()}
        with double():
            both = {name: jnp.concatenate([truth[name][None], draws[name]]) for name in truths}
            values = np.asarray(likelihood(both, observed))
        truth[LIKELIHOOD], draws[LIKELIHOOD] = np.asarray(values[0]), values[1:]
        random = generator(draw_key)
        for name, value in truth.items():
            found[name].append(_position(value, draws[name], random))
    if not trust:
        raise InputError(f"None of {simulations} fits gave draws. The first error: {next(iter(errors))}")
    return Calibration({name: np.array(values) for name, values in found.items()}, tuple(trust), dict(errors))


class _Observed:
    """The program and its arguments, with other data in the place of what it observes. One object: it is compiled once.

    The arguments are the same for every simulation: not traced, so that the program can read them.
    """

    def __init__(self, model: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]):
        self.model, self.args, self.kwargs = model, args, kwargs

    def __call__(self, data: Mapping[str, Any]) -> Any:
        return handlers.condition(unobserved(self.model), dict(data))(*self.args, **self.kwargs)


def _simulate(
    model: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], key: PRNGKeyArray, count: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draws of the latents from the prior, and of what is observed given them, (count, *shape) each."""
    observed: list[str] = []

    def one(key: PRNGKeyArray) -> dict[str, Any]:
        trace = handlers.trace(handlers.seed(unobserved(model), key)).get_trace(*args, **kwargs)
        sites = {name: site for name, site in trace.items() if site["type"] == "sample"}
        observed[:] = [name for name, site in sites.items() if site["infer"].get("was_observed")]
        _check_simulable(sites, observed)
        return {name: jnp.asarray(site["value"]) for name, site in sites.items()}

    try:
        with double():
            drawn = jax.jit(jax.vmap(one))(jax.random.split(key, count))
    except InputError:
        raise
    except Exception as error:
        line = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"The program cannot be simulated: {type(error).__name__}: {line}. Give it the arguments of qphi.fit, and "
            "every latent a proper prior."
        ) from error
    values = {name: np.asarray(value) for name, value in drawn.items()}
    return {n: v for n, v in values.items() if n not in observed}, {n: values[n] for n in observed}


def _check_simulable(sites: Mapping[str, dict[str, Any]], observed: list[str]) -> None:
    for name, site in sites.items():
        if isinstance(site["fn"], dist.Unit):
            raise InputError(f"Site {name!r} is a numpyro.factor, from which no data can be drawn. Use numpyro.sample.")
        if site["scale"] is not None and np.any(np.asarray(site["scale"]) != 1):
            raise InputError(f"Site {name!r} is scaled or subsampled: its data are not drawn from it. Leave that out.")
    if not observed:
        raise InputError("The program observes nothing. Give it data, as qphi.fit needs them: their shapes count.")


def _log_likelihood(program: _Observed, values: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    model = handlers.seed(handlers.substitute(program, dict(values)), jax.random.key(0))
    trace = handlers.trace(model).get_trace(data)
    return sum(jnp.sum(trace[name]["fn"].log_prob(trace[name]["value"])) for name in data)


def _draws(posterior: Any, key: PRNGKeyArray, truths: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """DRAWS of each latent, checked."""
    given = posterior if isinstance(posterior, Mapping) else posterior.sample(key, DRAWS)
    missing = [name for name in truths if name not in given]
    if missing:
        raise InputError(f"The fit gives no draws of {', '.join(missing)}. Return draws of every latent.")
    draws = {name: np.asarray(given[name]) for name in truths}
    for name, value in draws.items():
        shape = (DRAWS, *truths[name].shape[1:])
        if value.shape != shape:
            raise InputError(f"The fit's draws of {name} have the shape {value.shape}; {shape} is needed.")
    return draws


def _position(truth: np.ndarray, draws: Float[np.ndarray, "draws ..."], random: np.random.Generator) -> Any:
    """(rank + u) / (draws + 1), u uniform, ranks of equal values at random: uniform for exchangeable draws."""
    below, equal = np.sum(draws < truth, axis=0), np.sum(draws == truth, axis=0)
    return (below + random.uniform(size=np.shape(truth)) * (equal + 1)) / (len(draws) + 1)


def _row(name: str, positions: Float[np.ndarray, " fits"]) -> dict[str, Any]:
    z = ndtri(np.clip(positions, 1e-9, 1 - 1e-9))
    sd = float(np.std(z))
    p_shift = _symmetry(positions)
    p_width = float(stats.kstest(np.abs(2 * positions - 1), "uniform").pvalue)
    p = float(stats.chi2.sf(-2 * np.log(max(p_shift, 1e-300) * max(p_width, 1e-300)), 4))
    shift, width = (-float(np.mean(z)) / sd, 1 / sd) if sd else (np.inf, 0.0)
    return {"name": name, "shift": shift, "width": width, "p_shift": p_shift, "p_width": p_width, "p": p}


def _symmetry(positions: Float[np.ndarray, " fits"]) -> float:
    """P(max_k |S_k| >= what was seen) of a fair walk S: the sides of 1/2, from the most distant position inwards.

    max_k |S_k| / fits is the largest distance between the distribution functions of the positions and of their mirror
    images. Source: Butler (1969), "A test for symmetry using the sample distribution function".
    """
    distance = positions - 0.5
    walk = np.cumsum(np.sign(distance[np.argsort(-np.abs(distance))]))
    reached = int(np.max(np.abs(walk)))
    return _walk_reaches(reached, len(positions))


@functools.cache
def _walk_reaches(level: int, steps: int) -> float:
    if level == 0:
        return 1.0
    inside = np.zeros(2 * level + 1)  # where the walk is, if it has never been at an end
    inside[level] = 1.0
    for _ in range(steps):
        inside[1:-1] = 0.5 * (inside[:-2] + inside[2:])
    return float(1 - inside[1:-1].sum())


def _words(row: Mapping[str, Any]) -> str:
    words = []
    if row["p_shift"] < _NAMED:
        words.append(f"too {'high' if row['shift'] > 0 else 'low'} by {abs(row['shift']):.2g} sd")
    if row["p_width"] < _NAMED or not words:
        words.append(f"too {'narrow' if row['width'] < 1 else 'wide'} (sd times {row['width']:.2g})")
    return ", ".join(words)
