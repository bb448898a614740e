"""The Python in README.md and docs/ runs as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/installation.md", "docs/exported-model.md"]


def test_no_page_is_forgotten():
    with_python = [
        page
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        if "```python" in page.read_text()
    ]
    assert {str(page.relative_to(ROOT)) for page in with_python} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    code = "\n".join(blocks)
    if page == "README.md":
        code += (
            "\nassert 'openmm-mlbench ethanol/schnet' in [force.getName() for force in system.getForces()]\n"
        )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
