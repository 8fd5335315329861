"""The type checker that `conftest.py` puts on every function of qphi: beartype, with an int good enough for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
