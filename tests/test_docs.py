"""What is public is documented, and what is documented exists."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy.errors
from policies import KINDS
from proxy.errors import CODES, ProxyError
from proxy.reference import BEGIN, END, reference
from proxy.verbs import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SOURCES = sorted([*(ROOT / "proxy").rglob("*.py"), *(ROOT / "policies").rglob("*.py")])

ERRORS = {name for name, value in vars(proxy.errors).items() if isinstance(value, type) and issubclass(value, ProxyError)}


def test_the_readme_holds_the_reference_as_the_program_knows_it() -> None:
    assert README.count(BEGIN) == README.count(END) == 1
    begin, end = README.index(BEGIN), README.index(END) + len(END)
    assert README[begin:end] == reference(KINDS, VERBS), "run `make schema`"


def words(node: ast.expr, function: ast.AST) -> set[str]:
    """The strings that an expression can be: itself, one side of a choice, or what its name is given in the function."""
    match node:
        case ast.Constant(value=str(word)):
            return {word}
        case ast.IfExp(body=one, orelse=other):
            return words(one, function) | words(other, function)
        case ast.BoolOp(values=values):
            return {word for value in values for word in words(value, function)}
        case ast.Name(id=name):
            given = [n.value for n in ast.walk(function) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name]
            return {word for value in given for word in words(value, function)}
    return set()


def raised(path: Path) -> Iterator[tuple[str, set[str]]]:
    """(place, codes) of everything that makes an error or a limit, whose `error` is the code of its refusals."""
    tree = ast.parse(path.read_text("utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            callee = ast.unparse(node.func)
            coded = [k.value for k in node.keywords if k.arg == "error"] if callee == "Limit" else node.args[:1]
            if callee in ERRORS | {"self.refuse", "Limit"}:
                yield (f"{path.relative_to(ROOT)}:{node.lineno} {function.name}", {w for c in coded for w in words(c, function)})


# Where the code is somebody else's: a clause's, a limit's.
PASSED_ON = {("proxy/policy/contract.py", "refuse"), ("proxy/admission.py", "_refusal")}


@pytest.fixture(scope="module")
def codes() -> dict[str, set[str]]:
    return {place: found for path in SOURCES for place, found in raised(path)}


def test_every_error_that_is_raised_has_a_documented_code(codes: dict[str, set[str]]) -> None:
    unknown = {place: found - CODES.keys() for place, found in codes.items() if found - CODES.keys()}
    assert unknown == {}


def test_the_code_of_every_error_can_be_read_off_the_source(codes: dict[str, set[str]]) -> None:
    unread = {(place.partition(":")[0], place.rpartition(" ")[2]) for place, found in codes.items() if not found}
    assert unread == PASSED_ON


def test_every_documented_code_is_raised_somewhere(codes: dict[str, set[str]]) -> None:
    assert set(CODES) - set().union(*codes.values()) == set()


@pytest.mark.parametrize("example", sorted((ROOT / "policies" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_mentioned_in_the_readme(example: Path) -> None:
    assert f"(policies/examples/{example.name})" in README


@pytest.mark.parametrize("readme", [ROOT / "README.md", ROOT / "proxy" / "README.md"], ids=["README", "map"])
def test_every_file_that_a_readme_leads_to_exists(readme: Path) -> None:
    links = [part.partition(")")[0] for part in readme.read_text("utf-8").split("](")[1:]]
    missing = [link for link in links if "://" not in link and not (readme.parent / link.partition("#")[0]).exists()]
    assert missing == []


def test_every_verb_is_a_module_and_every_module_a_verb() -> None:
    modules = {path.stem for path in (ROOT / "proxy" / "commands").glob("*.py")} - {"__init__"}
    assert modules == set(VERBS)
