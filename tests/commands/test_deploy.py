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

# Kubernetes 1.31 and JobSet v1alpha2: kind of object -> its fields, and the kind of object in a field, [] for a list.
FIELDS = {
    "JobSet": "apiVersion kind metadata:Metadata spec:JobSetSpec",
    "Metadata": "name namespace labels annotations",
    "JobSetSpec": "replicatedJobs:[]ReplicatedJob network:Network successPolicy failurePolicy:FailurePolicy startupPolicy suspend "
    "coordinator managedBy ttlSecondsAfterFinished",
    "Network": "enableDNSHostnames subdomain publishNotReadyAddresses",
    "FailurePolicy": "maxRestarts restartStrategy rules:[]FailureRule",
    "FailureRule": "name action onJobFailureReasons targetReplicatedJobs",
    "ReplicatedJob": "name groupName replicas template:JobTemplate dependsOn",
    "JobTemplate": "metadata:Metadata spec:JobSpec",
    "JobSpec": "parallelism completions activeDeadlineSeconds podFailurePolicy:PodFailurePolicy backoffLimit completionMode suspend "
    "template:PodTemplate podReplacementPolicy ttlSecondsAfterFinished",
    "PodFailurePolicy": "rules:[]PodFailureRule",
    "PodFailureRule": "action onExitCodes:ExitCodes onPodConditions",
    "ExitCodes": "containerName operator values",
    "PodTemplate": "metadata:Metadata spec:PodSpec",
    "PodSpec": "affinity automountServiceAccountToken containers:[]Container dnsPolicy hostNetwork imagePullSecrets initContainers "
    "nodeSelector priorityClassName restartPolicy runtimeClassName schedulerName securityContext:PodSecurity "
    "serviceAccountName terminationGracePeriodSeconds tolerations:[]Toleration topologySpreadConstraints volumes:[]Volume",
    "PodSecurity": "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seccompProfile:Seccomp supplementalGroups",
    "Seccomp": "type localhostProfile",
    "Toleration": "key operator value effect tolerationSeconds",
    "Container": "name image imagePullPolicy command args env:[]Env ports:[]Port resources:Resources securityContext:Security "
    "volumeMounts:[]Mount workingDir startupProbe:Probe readinessProbe:Probe livenessProbe:Probe lifecycle",
    "Env": "name value valueFrom:EnvSource",
    "EnvSource": "fieldRef:FieldRef",
    "FieldRef": "apiVersion fieldPath",
    "Port": "name containerPort protocol",
    "Resources": "limits requests claims",
    "Security": "allowPrivilegeEscalation capabilities:Capabilities privileged readOnlyRootFilesystem runAsNonRoot runAsUser",
    "Capabilities": "add drop",
    "Mount": "name mountPath readOnly subPath",
    "Volume": "name emptyDir:EmptyDir persistentVolumeClaim:Claim hostPath secret:Secret",
    "EmptyDir": "medium sizeLimit",
    "Claim": "claimName readOnly",
    "Deployment": "apiVersion kind metadata:Metadata spec:DeploymentSpec",
    "DeploymentSpec": "replicas selector:Selector template:PodTemplate strategy minReadySeconds revisionHistoryLimit paused progressDeadlineSeconds",
    "Selector": "matchLabels matchExpressions",
    "Probe": "httpGet:HttpGet exec tcpSocket grpc initialDelaySeconds periodSeconds timeoutSeconds successThreshold failureThreshold "
    "terminationGracePeriodSeconds",
    "HttpGet": "path port host scheme httpHeaders",
    "Service": "apiVersion kind metadata:Metadata spec:ServiceSpec",
    "ServiceSpec": "selector ports:[]ServicePort type clusterIP sessionAffinity externalTrafficPolicy internalTrafficPolicy ipFamilies",
    "ServicePort": "name port targetPort protocol nodePort appProtocol",
    "Secret": "secretName items defaultMode optional",
    "PersistentVolumeClaim": "apiVersion kind metadata:Metadata spec:ClaimSpec",
    "ClaimSpec": "accessModes storageClassName resources:Resources volumeName volumeMode selector",
}


def unknown_fields(value, kind: str, where: str) -> list[str]:
    """Paths of fields that an object of this kind does not have."""
    if isinstance(value, list):
        return [path for i, item in enumerate(value) for path in unknown_fields(item, kind, f"{where}[{i}]")]
    kinds = dict(field.partition(":")[::2] for field in FIELDS[kind].split())
    found = []
    for name, inner in value.items():
        path = f"{where}.{name}"
        if name not in kinds:
            found.append(path)
        elif kinds[name]:
            assert isinstance(inner, list) == kinds[name].startswith("[]"), path
            found += unknown_fields(inner, kinds[name].removeprefix("[]"), path)
    return found


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
             "slurm-folds.sh": "sbatch --array=0-4 deploy/slurm-folds.sh"}  # fmt: skip
    assert start.get(path.name, f"kubectl apply -f deploy/{path.name}") in text
    assert "Change:" in text and "Checked" in text
    assert re.search(r"\bnot\b.*\b(run|built|used)\b|\bneither\b.*\brun\b", text, re.DOTALL), "says what has not been tried"
    if path.name in (*JOBSETS, "slurm.sh", "slurm-folds.sh"):
        assert "Watch:" in text and "Stop:" in text


# Kubernetes


@pytest.mark.parametrize("name", [*JOBSETS, "storage.yaml"])
def test_every_field_is_one_of_kubernetes_or_jobset(name):
    document = load(name)
    api = {"JobSet": "jobset.x-k8s.io/v1alpha2", "PersistentVolumeClaim": "v1"}
    assert document["apiVersion"] == api[document["kind"]]
    assert unknown_fields(document, document["kind"], name) == []


def test_a_misspelt_field_is_found():
    document = load("jobset.yaml")
    document["spec"]["failurePolicy"]["maxRestart"] = 1
    document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["arg"] = []
    assert unknown_fields(document, "JobSet", "") == [
        ".spec.failurePolicy.maxRestart",
        ".spec.replicatedJobs[0].template.spec.template.spec.containers[0].arg",
    ]


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_starts_all_again_but_for_exit_code_2(name):
    document, replicated, job, pod, container = parts(name)
    policy = document["spec"]["failurePolicy"]
    assert policy["maxRestarts"] >= 10  # each preemption costs one
    assert policy.get("restartStrategy", "Recreate") in ("Recreate", "BlockingRecreate")
    (rule,) = policy["rules"]
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    (pod_rule,) = job["podFailurePolicy"]["rules"]
    assert pod_rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
    }
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


def test_what_serves_is_probed_at_addresses_that_there_are_and_ends_within_its_grace():
    deployment, service = yaml.safe_load_all((DEPLOY / "serve.yaml").read_text())
    for document, api in ((deployment, "apps/v1"), (service, "v1")):
        assert document["apiVersion"] == api and unknown_fields(document, document["kind"], "") == []
    pod = deployment["spec"]["template"]["spec"]
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
