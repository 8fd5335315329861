"""REACH: weights that say how far tails go, where those of the fits leave moments in doubt.

A moment is in doubt where few draws far out hold much of it. Others are drawn there on purpose: at any distance up to
ten thousand sds, no distance more often than another on a logarithmic scale, in any direction, and along single
coordinates with the others near. A tail that ends has bounded weights under these however heavy it is; one that does
not end has a share of the moment left where they end.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from qphi.assess import Assessed, assess, weigh
from qphi.checks.judge import beyond_help, by_weights
from qphi.checks.proposal import Proposal
from qphi.checks.reaching import Reaching, with_ends
from qphi.checks.weighted import flattened, weighted_moments
from qphi.redraw import moment_matched
from qphi.search import Search

__all__ = ["reach"]

_MOST_DIM, _MOST_ALONG = 100, 16
_TIMES = 2  # as many draws, of which half are far out
_FAIR_SHARE = 0.05  # of the pairs: the ESS of weights that fail for their tails alone


def reach(search: Search, plain: Assessed) -> Assessed:
    """The assessment by draws that reach far out, where it can be used, or says that moments do not exist; else the one
    there is. Only where the weights are fair but for their tails. In the coordinates of a map, where there is one."""
    check = plain.weighed.check
    oracle = plain.oracle
    if oracle.dim > _MOST_DIM or search.late or check.ess < _FAIR_SHARE * check.pairs or plain.case.modes_left:
        return plain
    around = moment_matched(plain.weighed.z, plain.weighed.weights)
    if around is None:
        return plain
    tails = weighted_moments(plain.weighed.z, plain.weighed.weights).sd_khat
    along = np.argsort(-np.nan_to_num(tails, nan=math.inf))[:_MOST_ALONG]
    proposal = Reaching.of(Proposal(plain.parts, plain.weighed.shares), around, along, oracle)
    weighed = weigh(search, proposal, oracle, _TIMES)
    if not weighed.usable:
        return plain
    # what has no weight may lie too far out for numbers
    weighed = dataclasses.replace(weighed, z=np.where(weighed.weights[:, None] > 0, weighed.z, around.mean))
    case = dataclasses.replace(plain.case, late=search.late, largest_log_weight=float(np.max(weighed.excess)))
    found = assess(oracle, plain.parts, weighed, case, plain.residual)
    moments = with_ends(found.moments, flattened(found.values), weighed.weights, proposal.at_the_end(weighed.z))
    judgement = by_weights(case, weighed.check, moments)
    if not (judgement.trust.usable or beyond_help(weighed.check, moments)):
        return plain
    return dataclasses.replace(found, moments=moments, judgement=judgement)
