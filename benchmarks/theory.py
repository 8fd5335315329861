"""The page docs/theory.md: runs its Python from top to bottom and makes its figures.

The page is the program. Its blocks run in their order in one namespace, their asserts have to hold, and they write
docs/figures/theory_*.png. The last line of the page then names the code that made the figures, by which
tests/test_theory.py knows figures that are older than their code. With --smoke the figures go to a temporary folder and
the page stays as it is.

    python benchmarks/theory.py
"""

from __future__ import annotations

import sys
import time

from _results import ROOT, figure_file, parser

sys.path.insert(0, str(ROOT / "tests"))

PAGE = ROOT / "docs" / "theory.md"


def main() -> None:
    options = parser(__doc__).parse_args()
    from pages import digest, figures, run, sign

    began, code = time.monotonic(), digest(PAGE)
    folder = figure_file("theory", options.smoke).parent
    if options.smoke:  # the page writes into figures/ of the folder it runs in
        (folder / "figures").mkdir(exist_ok=True)
    run(PAGE, folder if options.smoke else PAGE.parent)
    if not options.smoke:
        sign(PAGE, code)
    print(f"{PAGE.name}: every assert holds; {', '.join(figures(PAGE))}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
