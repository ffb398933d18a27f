"""Write the demo's table and picture into docs/demo.md, from the store that `make demo` filled.

python benchmarks/demo_page.py [STORE]
"""

import re
import sys
from pathlib import Path

from mixcpt.records.run import find_run
from mixcpt.report.figures.tradeoff import save_tradeoff
from mixcpt.report.summary import summarise
from mixcpt.report.table import markdown_table
from mixcpt.store.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "demo.md"
PICTURE = "learned-against-forgotten.svg"
BLOCK = re.compile(r"(<!-- demo:begin -->\n).*?(<!-- demo:end -->)", re.DOTALL)
ALT = "Learned against forgotten: the traditional chain forgets, Mix-CPT keeps, both with 95 % intervals"


def main(store_path: str = ".mixcpt") -> None:
    store = ArtifactStore(store_path)
    summary = summarise([find_run(store, name) for name in ("traditional", "mixcpt")])
    save_tradeoff(summary, PAGE.parent / PICTURE)
    block = f"![{ALT}]({PICTURE})\n\n{markdown_table(summary).strip()}\n"
    PAGE.write_text(BLOCK.sub(lambda match: match[1] + block + match[2], PAGE.read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
