"""`deploy/` and `docs/scaling.md`, as far as one machine can tell: schemas, and names that exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from training_tools import ROOT, child

from cnnjax import config as config_lib
from cnnjax.pages import report
from cnnjax.serving import parse_limits

DEPLOY = ROOT / "deploy"
JOBSETS = ("jobset.yaml", "jobset-tpu.yaml")
TEXTS = [*sorted(DEPLOY.iterdir()), ROOT / "docs" / "scaling.md"]


@pytest.fixture(scope="module")
def taken():
    """taken(document, kind) -> the document as JobSet's and Kubernetes' models read it: what they do not know is missing."""
    from kubeflow_trainer_api import models  # two thousand classes: not imported by who does not run these tests

    known = {"JobSet": models.JobsetV1alpha2JobSet, "PersistentVolumeClaim": models.IoK8sApiCoreV1PersistentVolumeClaim,
             "PodTemplate": models.IoK8sApiCoreV1PodTemplateSpec, "Service": models.IoK8sApiCoreV1Service}  # fmt: skip
    return lambda document, kind: known[kind].from_dict(document).to_dict()


def load(name: str) -> dict:
    (document,) = yaml.safe_load_all((DEPLOY / name).read_text())
    return document


def parts(name: str) -> tuple[dict, dict, dict, dict, dict]:
    """A JobSet's document, its one replicated job, and of that the job, the pod and the container."""
    document = load(name)
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return document, replicated, job, pod, container


def flag(arguments: list[str], name: str) -> str:
    (value,) = (argument.partition("=")[2] for argument in arguments if argument.startswith(f"--{name}="))
    return value


def opening(path: Path) -> str:
    """The comment that a file starts with."""
    lines = path.read_text().splitlines()
    lines = lines[1:] if lines[0].startswith("#!") else lines
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[:end])


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_file_opens_with_how_to_start_it_what_to_change_and_what_has_been_checked(path):
    text = opening(path)
    start = {"Dockerfile": "docker build -f deploy/Dockerfile", "slurm.sh": "sbatch deploy/slurm.sh",
             "skypilot.yaml": "sky jobs launch deploy/skypilot.yaml", "xpk.sh": "bash deploy/xpk.sh",
             "slurm-folds.sh": "sbatch --array=0-4 deploy/slurm-folds.sh"}  # fmt: skip
    assert start.get(path.name, f"kubectl apply -f deploy/{path.name}") in text
    assert "Change:" in text and "Checked" in text
    assert re.search(r"\bnot\b.*\b(run|built|used)\b|\bneither\b.*\brun\b", text, re.DOTALL), "says what has not been tried"
    if path.name in (*JOBSETS, "slurm.sh", "slurm-folds.sh", "skypilot.yaml", "xpk.sh"):
        assert "Watch:" in text and "Stop:" in text


# Kubernetes


@pytest.mark.parametrize("name", [*JOBSETS, "storage.yaml"])
def test_every_field_is_one_of_kubernetes_or_jobset(name, taken):
    document = load(name)
    api = {"JobSet": "jobset.x-k8s.io/v1alpha2", "PersistentVolumeClaim": "v1"}
    assert document["apiVersion"] == api[document["kind"]]
    assert taken(document, document["kind"]) == document


def test_a_misspelt_field_and_a_wrong_type_are_found(taken):
    document = load("jobset.yaml")
    policy, container = document["spec"]["failurePolicy"], parts("jobset.yaml")[-1]
    document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"] = [{**container, "arg": []}]
    policy["maxRestart"] = 1
    right = load("jobset.yaml")
    assert taken(document, "JobSet") == right != document
    policy["maxRestarts"] = "fifty"
    with pytest.raises(ValueError, match="maxRestarts"):
        taken(document, "JobSet")


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_starts_all_again_but_for_exit_code_2_and_counts_no_stop(name):
    document, replicated, job, pod, container = parts(name)
    policy = document["spec"]["failurePolicy"]
    assert policy["maxRestarts"] >= 10  # each crash costs one
    assert policy.get("restartStrategy", "Recreate") in ("Recreate", "BlockingRecreate")
    assert all(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]) for rule in policy["rules"])
    # The condition of a Job as kubernetes/pkg/controller/job/pod_failure_policy.go words it.
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        if "onExitCodes" in rule:
            assert rule["onExitCodes"].items() >= {"containerName": container["name"], "operator": "In"}.items()
            (code,) = rule["onExitCodes"]["values"]
            words = f"Container {container['name']} for pod default/x failed with exit code {code}"
        else:
            (condition,) = rule["onPodConditions"]
            code, words = condition["type"], f"Pod default/x has condition {condition['type']}"
            assert condition == {"type": "DisruptionTarget", "status": "True"}
        words += f" matching FailJob rule at index {index}"
        matching = [rule["action"] for rule in policy["rules"] if rule["onJobFailureReasons"] == ["PodFailurePolicy"]
                    and any(re.search(pattern, words) for pattern in rule["onJobFailureMessagePatterns"])]  # fmt: skip
        again = "RestartJobSetAndIgnoreMaxRestarts"  # a stop has saved all
        assert matching == [{2: "FailJobSet", 75: again, "DisruptionTarget": again}[code]]
    assert len(job["podFailurePolicy"]["rules"]) == 3
    assert pod["restartPolicy"] == "Never", "a podFailurePolicy allows nothing else"
    assert job["backoffLimit"] == 0, "a single pod cannot join the others again"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert "command" not in container, "the image's entry point, without a shell, gets SIGTERM"
    assert replicated["replicas"] == 1 or policy["restartStrategy"] == "BlockingRecreate"


@pytest.mark.parametrize("name", JOBSETS)
def test_names_volumes_and_devices_of_a_jobset_fit_together(name):
    document, replicated, job, pod, container = parts(name)
    longest = f"{document['metadata']['name']}-{replicated['name']}-{replicated['replicas']}-{job['completions']}-abcde"
    assert len(longest) <= 63 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", longest)
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"] > 1
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [load("storage.yaml")["metadata"]["name"]]
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    devices = [key for key in limits if "/" in key]
    assert devices in (["nvidia.com/gpu"], ["google.com/tpu"])
    assert all(requests.get(key, limits[key]) == limits[key] for key in devices), "not fractions, and never more than asked"
    known = {variable["name"] for variable in container.get("env", [])}
    used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
    assert used <= known, "Kubernetes leaves what it does not know as it is"
    tool = f"jobset-name={document['metadata']['name']},"
    assert tool in opening(DEPLOY / name) and f"jobset {document['metadata']['name']}" in opening(DEPLOY / name)


@pytest.mark.parametrize("name", JOBSETS)
def test_the_command_of_a_jobset_is_a_run_on_storage_that_all_pods_see(name):
    _, replicated, job, _, container = parts(name)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    arguments = container["args"]
    for key in ("workdir", "config.data.path", "config.data.cache_dir"):
        path = Path(flag(arguments, key))
        assert any(str(parent) in mounts for parent in path.parents) or str(path) in mounts, key
    assert flag(arguments, "workdir").startswith("/shared/") and flag(arguments, "config.data.path").startswith("/shared/")
    overrides = dict(a.removeprefix("--config.").split("=", 1) for a in arguments if a.startswith("--config."))
    config = config_lib.load_config(ROOT / flag(arguments, "config"), overrides)
    per_pod = next(n for key, n in container["resources"]["limits"].items() if "/" in key)
    assert config.data.batch_size % (replicated["replicas"] * job["completions"] * per_pod) == 0


def test_all_pods_are_told_the_same_first_pod_and_each_its_own_number():
    document, replicated, job, _, container = parts("jobset.yaml")
    host, _, port = flag(container["args"], "coordinator").partition(":")
    paths = {v["name"]: v["valueFrom"]["fieldRef"]["fieldPath"] for v in container["env"]}
    jobset = document["metadata"]["name"]
    label = "metadata.labels['jobset.sigs.k8s.io/jobset-name']"
    host = re.sub(r"\$\((\w+)\)", lambda found: {label: jobset}[paths[found[1]]], host)
    assert host == f"{jobset}-{replicated['name']}-0-0.{jobset}"  # JobSet's name of a pod, in its headless service
    assert document["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    assert int(port) in [p["containerPort"] for p in container["ports"]]
    assert int(flag(container["args"], "num_processes")) == job["completions"]
    (variable,) = re.findall(r"\$\((\w+)\)", flag(container["args"], "process_id"))
    assert paths[variable] == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_a_tpu_slice_has_a_pod_for_each_of_its_hosts_and_finds_the_first_by_itself():
    _, _, job, pod, container = parts("jobset-tpu.yaml")
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert job["completions"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert not any("coordinator" in argument for argument in container["args"])


def test_storage_for_several_nodes_is_not_deleted_together_with_a_job():
    assert load("storage.yaml")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert all(load(name)["kind"] == "JobSet" for name in JOBSETS)


def test_what_serves_is_probed_at_addresses_that_there_are_and_ends_within_its_grace(taken):
    deployment, service = yaml.safe_load_all((DEPLOY / "serve.yaml").read_text())
    assert (deployment["apiVersion"], service["apiVersion"]) == ("apps/v1", "v1")
    template = deployment["spec"]["template"]
    assert taken(service, "Service") == service and taken(template, "PodTemplate") == template
    assert set(deployment["spec"]) == {"replicas", "selector", "template"}  # these models have no Deployment
    pod = template["spec"]
    (container,) = pod["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (port,) = container["ports"]
    assert (
        flag(container["args"], "port") == str(port["containerPort"])
        and service["spec"]["ports"][0]["targetPort"] == port["name"]
    )
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    limits = parse_limits(flag(container["args"], "limits").split(","))
    assert limits.drain + limits.seconds < pod["terminationGracePeriodSeconds"]
    assert flag(container["args"], "token_file").startswith("/secrets/") and flag(container["args"], "host") == "0.0.0.0"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == load("storage.yaml")["metadata"]["name"]


# SkyPilot and XPK


def told(tmp_path, program: str, script: str, **environment: str) -> list[str]:
    """The arguments that a bash script gives to a program, which is replaced by one that says them."""
    stub = tmp_path / program
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    found = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **environment}
    return subprocess.run(
        ["bash", "-eu", "-c", script], capture_output=True, text=True, check=True, env=found
    ).stdout.splitlines()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not there")
def test_every_node_of_skypilot_is_told_the_first_node_and_its_own_number(tmp_path):
    task = load("skypilot.yaml")
    program, *arguments = told(tmp_path, "cnnjax/bin/python", task["run"], SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2\n",
                               SKYPILOT_NUM_NODES="2", SKYPILOT_NODE_RANK="1")  # fmt: skip
    assert (program, task["num_nodes"], task["workdir"]) == ("launch.py", 2, ".")
    assert flag(arguments, "coordinator") == "10.0.0.1:8476"
    assert (flag(arguments, "num_processes"), flag(arguments, "process_id")) == ("2", "1")
    assert all(
        flag(arguments, key).startswith("/shared/") for key in ("workdir", "config.data.path", "config.data.cache_dir")
    )
    assert task["volumes"] == {"/shared": load("storage.yaml")["metadata"]["name"]}
    gpus = int(task["resources"]["accelerators"].partition(":")[2])
    assert int(flag(arguments, "config.data.batch_size")) % (gpus * task["num_nodes"]) == 0
    assert task["resources"]["job_recovery"] == {"strategy": "FAILOVER", "recover_on_exit_codes": [75]}


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not there")
def test_xpk_starts_again_after_a_stop_and_a_loss_and_not_after_exit_code_2(tmp_path):
    given = told(tmp_path, "xpk", (DEPLOY / "xpk.sh").read_text())
    assert given[:2] == ["workload", "create"] and int(flag(given, "max-restarts")) >= 10
    assert flag(given, "restart-on-exit-codes") == "1,75" and int(flag(given, "termination-grace-period-seconds")) >= 120
    start, python, program, *arguments = shlex.split(flag(given, "command"))
    assert (start, python, program) == ("exec", "python", "launch.py"), "XPK's wrapper passes SIGTERM to its child only"
    assert all(
        flag(arguments, key).startswith("/shared/") for key in ("workdir", "config.data.path", "config.data.cache_dir")
    )
    chips = int(flag(given, "tpu-type").rpartition("-")[2]) * int(flag(given, "num-slices"))
    assert int(flag(arguments, "config.data.batch_size")) % chips == 0


# Docker


def instructions() -> list[tuple[str, str]]:
    text = "\n".join(line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def copied() -> list[str]:
    return [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]


def test_what_the_image_copies_is_there_and_is_sent_to_docker():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    for source in copied():
        assert (ROOT / source).exists() and f"!{source}" in ignored, source
    assert len(ignored) == 3 + len(copied()), "and nothing else but __pycache__ and *.so, which are left out again"


def test_the_image_builds_from_the_pinned_versions_for_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    install = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert "-c constraints.txt" in install and ".${EXTRA:+[$EXTRA]}" in install
    named = re.findall(r"EXTRA=([\w,]+)", "".join(path.read_text() for path in TEXTS))
    assert {"cuda", "tpu"} <= {extra for names in named for extra in names.split(",")} <= {*project["optional-dependencies"]}
    version = next(rest for name, rest in instructions() if name == "ARG" and rest.startswith("PYTHON="))
    minor = int(version.removeprefix("PYTHON=3."))
    assert minor >= int(re.fullmatch(r">=3\.(\d+)", project["requires-python"])[1])


def test_the_image_runs_launch_without_a_shell_and_without_root():
    found = dict(instructions())
    assert found["ENTRYPOINT"] == '["python", "launch.py"]'
    user = next(rest for name, rest in instructions() if name == "ARG" and rest.startswith("UID="))
    assert found["USER"] == "${UID}" and user == "UID=1000"
    _, _, _, pod, _ = parts("jobset.yaml")
    assert pod["securityContext"]["runAsUser"] == 1000 and pod["securityContext"]["runAsNonRoot"]


def test_what_the_image_copies_is_enough_to_start(tmp_path):
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / source)
    code = "import cnnjax, launch; print(cnnjax.__file__); launch.program()"
    done = subprocess.run([sys.executable, "-c", code, "--mode=describe", "--config=configs/malaria.py:demo", "--workdir=x"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "cnnjax")) and "758,401" in done.stdout


# Names

# Flags of other programs that these files name.
FOREIGN = {
    *("build-arg", "rm", "name", "gpus", "shm-size", "time"),  # docker
    *("create-home", "uid", "no-cache-dir"),  # useradd, pip
    *("no-install-recommends", "auto-remove", "inplace"),  # apt-get, setuptools
    *("nodes", "job-name", "output", "open-mode", "gpus-per-node", "gpus-per-task", "ntasks-per-node", "cpus-per-task"),
    *("mem-per-cpu", "signal", "requeue", "kill-on-bad-exit", "wait", "me", "batch", "array", "ntasks"),  # Slurm
    *("type", "from-file"),  # kubectl
    *("infra", "size", "use-existing", "python"),  # sky, uv
    *(
        "cluster",
        "workload",
        "project",
        "zone",
        "tpu-type",
        "num-slices",
        "docker-image",
        "max-restarts",
        "command",
        "dry-run",
    ),
    *("restart-on-exit-codes", "termination-grace-period-seconds"),  # xpk
}


@pytest.fixture(scope="module")
def help_text():
    done = child(["launch.py", "--help"])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_flag_that_is_named_exists(path, help_text):
    known = set(re.findall(r"^\s*--(?:\[no\])?([a-z_]+)", help_text, re.MULTILINE))
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)(?![\w.-])", path.read_text()))
    assert {"workdir", "config"} <= known
    assert named - FOREIGN - known == set()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_config_key_that_is_named_exists(path):
    keys = {key for key, _ in config_lib.flatten(config_lib.default())}
    sections = {key.split(".")[0] for key in keys if "." in key}
    text = path.read_text()
    named = set(re.findall(r"--config\.([\w.]+)", text))
    named |= {key for key in re.findall(r"(?<![\w./-])([a-z]+\.[a-z_]+\d?)\b", text) if key.split(".")[0] in sections}
    assert named - keys == set()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_value_that_is_named_is_taken(path):
    for key, value in re.findall(r"--config\.([\w.]+)=('[^']*'|\S+)", path.read_text()):
        (value,) = shlex.split(value.rstrip("`,;"))
        config = config_lib.override(config_lib.default(), {"data.path": "unused", key: value})
        config_lib.finish(config)


def test_what_scaling_says_to_look_at_stands_in_the_report():
    text = (ROOT / "docs" / "scaling.md").read_text()
    table = text.partition("| what is large or grows |")[2].partition("\n\n")[0]
    labels = [label.strip() for row in table.splitlines()[2:] for label in row.split("|")[1].split(",")]
    shown = {*report.SPENT.values(), "augmentation", "the rest", "per image", "images/s that fall after some time"}
    assert set(labels) <= shown
    assert set(report.SPENT.values()) <= set(labels)
    for name in ("Where the time went", "images_per_second", "metrics.jsonl"):
        assert name in text
