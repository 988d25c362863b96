"""What the README claims to be proven by a test is proven by one that exists."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROOFS = sorted(set(re.findall(r"\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)", README)))
FILES = sorted(set(re.findall(r"\]\(((?!http)[\w/.]+)\)", README)))


def test_there_are_proofs_to_look_for():
    assert len(PROOFS) > 40


@pytest.mark.parametrize(("name", "path"), PROOFS)
def test_a_test_that_the_readme_names_exists(name, path):
    tree = ast.parse((ROOT / path).read_text())
    names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert name in names


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_the_readme_links_exists(path):
    assert (ROOT / path).is_file()
