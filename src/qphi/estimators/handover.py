"""What a `VAE` does with a table that no array of numbers can hold: it hands the table to `TableVAE`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from qphi.errors import InputError
from qphi.estimators.judging import Judging
from qphi.estimators.latent_tools import LatentTools
from qphi.estimators.table_vae import TableVAE

__all__ = ["Handover", "either"]

SHARED = ("latent_dim", "hidden", "particles", "max_epochs", "max_time", "random_state")
ELSEWHERE = ("device",)  # seen to by the caller
Method = TypeVar("Method", bound=Callable)


def either(method: Method) -> Method:
    """The method of arrays, or the table's of the same name where a table was fitted."""

    @functools.wraps(method)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        table = vars(self).get("table_")
        if table is None:
            return method(self, *args, **kwargs)
        try:
            inspect.signature(getattr(table, method.__name__)).bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(
                f"{method.__name__} of a table: {error}. help(qphi.TableVAE.{method.__name__}) says what there is."
            ) from None
        return getattr(table, method.__name__)(*args, **kwargs)

    return cast(Method, ask)


class Handover(LatentTools, Judging):
    """Fitted to a table, a `VAE` keeps a `TableVAE` in `table_` and asks it; it has all that a `TableVAE` has.

    What both can do goes to the one that was fitted; what only one can do is refused by the other.
    """

    encode = either(LatentTools.encode)
    inverse_transform = either(LatentTools.inverse_transform)
    sample = either(LatentTools.sample)
    reconstruct = either(LatentTools.reconstruct)
    interpolate = either(LatentTools.interpolate)
    score_samples = either(Judging.score_samples)
    score = either(Judging.score)
    evaluate = either(Judging.evaluate)

    def __getattr__(self, name: str) -> Any:
        # asked for what this object has not: schema_, status_, impute, ...
        table = vars(self).get("table_")
        if table is not None and (not name.startswith("_") or name == "_n_features_out"):
            return getattr(table, name)
        hint = f" {name} is for tables: fit a data frame, or use qphi.TableVAE." if hasattr(TableVAE, name) else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}.{hint}")

    def _fitted(self) -> Any:
        if "table_" in vars(self):
            raise InputError(
                "this VAE was fitted to a table with text, dates or gaps, and this is for images and vectors of "
                "numbers. Use what qphi.TableVAE has: transform, sample, impute, score_samples, anomaly_score, explain."
            )
        return super()._fitted()

    def _table_of_own(self, arguments: dict[str, Any]) -> TableVAE:
        """An unfitted `TableVAE` with this object's parameters. Raises InputError for those that tables have not.

        A parameter at its default leaves the table's own default, which follows the number of columns.
        """
        given = [name for name, value in arguments.items() if value is not None and value is not False]
        if given:
            raise InputError(f"{given[0]}= has no meaning for a table with text, dates or gaps. Leave it out.")
        parameters = inspect.signature(type(self)).parameters
        changed = {name: getattr(self, name) for name, p in parameters.items() if getattr(self, name) is not p.default}
        changed = {name: value for name, value in changed.items() if value != parameters[name].default}
        foreign = [name for name in changed if name not in (*SHARED, *ELSEWHERE)]
        if foreign:
            raise InputError(
                f"{foreign[0]}={changed[foreign[0]]!r} has no meaning for a table with text, dates or gaps, which "
                "qphi.TableVAE models. Leave it out, or give numbers without gaps."
            )
        return TableVAE(**{name: value for name, value in changed.items() if name in SHARED})

    def _keep_table(self, table: TableVAE) -> None:
        """Nothing of an earlier fit stays."""
        for name in [n for n in vars(self) if n.endswith("_") or n in ("_last_run", "_n_features_out")]:
            delattr(self, name)
        self.table_ = table
