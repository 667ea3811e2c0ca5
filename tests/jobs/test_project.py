"""The project's own files agree with each other."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text()))


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "environment.yml").read_text()))


def read_pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition(";")[0].strip().split("==") for line in lines if line and not line.startswith("#")]
    return {normalise(name): version for name, version in pins}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    return normalise(re.split(r"[\s\[<>=;!~]", requirement, maxsplit=1)[0])


def test_every_dependency_is_pinned_in_the_constraints(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + [
        line for name in extras if name != "open-clip" for line in extras[name]
    ]
    names = {name_of(line) for line in wanted} - {"mmcsal", "tomli"}
    assert names - set(read_pins()) == set()


def test_the_metadata_keeps_ranges_and_torch_is_pinned_once(project: dict[str, Any]) -> None:
    assert read_pins()["torch"] == "2.13.0"
    assert all("==" not in line.partition(";")[0] for line in project["project"]["dependencies"])


def test_the_conda_environment_installs_this_project_under_the_constraints(
    project: dict[str, Any], environment: dict[str, Any]
) -> None:
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert environment["name"] == project["project"]["name"]
    assert [line.split("=")[0] for line in conda] == ["python", "pip"]
    minimum = tuple(int(part) for part in project["project"]["requires-python"].removeprefix(">=").split("."))
    assert tuple(int(part) for part in conda[0].split("=")[1].split(".")) >= minimum
    assert pip[0] == "--constraint constraints.txt"
    extras = re.fullmatch(r"--editable \.\[([a-z,-]+)\]", pip[1])
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])


def test_faiss_comes_in_exactly_one_build(project: dict[str, Any]) -> None:
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in project["project"]["dependencies"] if line.startswith("faiss")]
    machines = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]
    for system, machine in machines:
        surroundings = {"sys_platform": system, "platform_machine": machine}
        chosen = [item.name for item in requirements if item.marker is not None and item.marker.evaluate(surroundings)]
        assert chosen == ["faiss-gpu" if (system, machine) == ("linux", "x86_64") else "faiss-cpu"]


def test_make_runs_every_folder_of_tests() -> None:
    named = re.search(r"^TESTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    folders = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert {*named[1].split(), "tests/hub", "tests/stores"} == folders


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "test: check" in makefile
    assert "check: lint types imports tests" in makefile
