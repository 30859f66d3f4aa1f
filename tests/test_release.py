"""A release: both archives hold what they should, and work where nothing else is."""

import pathlib
import re
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

import optax_lena

ROOT = pathlib.Path(__file__).parent.parent
VERSION = optax_lena.__version__


def test_the_version_stands_in_one_place():
    """The build takes it from the package; people also find it in the citation."""
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert not re.search(r"^version = ", project, re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r'^version: "?([^"\n]+)', citation, re.MULTILINE) == [VERSION]


def test_contributing_lists_every_target_of_make():
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    listed = re.findall(
        r"^make ([a-z-]+) ", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    assert sorted(listed) == sorted(set(targets) - {"help"})


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_and_sdist_pass_the_quick_start_in_an_environment_of_their_own(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path))
    wheel = tmp_path / f"optax_lena-{VERSION}-py3-none-any.whl"
    sdist = tmp_path / f"optax_lena-{VERSION}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "optax_lena/py.typed" in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "optax_lena"
    }
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"docs/method.md", "mkdocs.yml", "tests/oracle.py", "LICENSE"} <= names

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    pins = f"--constraint={ROOT / 'constraints.txt'}"
    install = (str(python), "-m", "pip", "install", "--quiet", pins)
    quickstart = tmp_path / "quickstart.py"
    quickstart.write_text((ROOT / "examples/quickstart.py").read_text())
    run(*install, str(wheel))
    for archive in (wheel, sdist):
        run(*install, "--no-deps", "--force-reinstall", str(archive))
        told = run(str(python), "-I", str(quickstart), "--updates=20")
        assert told.count("trust ratio") == 2
