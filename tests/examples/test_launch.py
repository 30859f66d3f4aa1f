"""The launch files: shells can read them, and Kubernetes' schema has what they say."""

import json
import pathlib
import shutil
import subprocess

import jsonschema
import pytest
import yaml

from examples.pod_training import config

FOLDER = pathlib.Path(config.__file__).parent / "launch"
SCHEMA = pathlib.Path(__file__).parent / "jobset_schema.json"


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_pod.sh"])
def test_shells_can_read_it(name):
    path = FOLDER / name
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_pod.sh"])
def test_shellcheck_finds_nothing_in_it(name):
    subprocess.run(["shellcheck", FOLDER / name], check=True)


def jobset():
    return yaml.safe_load((FOLDER / "jobset.yaml").read_text())


def test_the_jobset_fits_its_schema():
    jsonschema.validate(jobset(), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("wrong", ["maxRestart", "network"])
def test_the_schema_refuses_what_it_does_not_know(wrong):
    job = jobset()
    job["spec"]["failurePolicy"][wrong] = 1
    with pytest.raises(jsonschema.ValidationError, match=wrong):
        jsonschema.validate(job, json.loads(SCHEMA.read_text()))


def test_the_jobset_starts_the_program_with_options_that_it_takes():
    (job,) = jobset()["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "examples.pod_training"]
    assert config.parse(container["args"]).batch == 4096


def test_slurm_sets_only_what_sbatch_knows():
    lines = (FOLDER / "slurm.sbatch").read_text().splitlines()
    options = [line.split()[1].split("=")[0] for line in lines if line[:7] == "#SBATCH"]
    known = "job-name nodes ntasks-per-node gpus-per-node cpus-per-task time requeue"
    known += " signal open-mode output"
    assert options == [f"--{option}" for option in known.split()]
