"""The manifests: valid, and true to the server, the probe and the Envoy that they start."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest
from pydantic_settings import CliApp

from streamer.observability.metrics import Metrics
from streamer.process.probe import SERVICE
from streamer.settings import ServerSettings

KUBERNETES = "1.37"


@pytest.fixture(scope="module")
def manifests(deploy):
    """By kind and name; as they are written."""
    listed = yaml.safe_load((deploy / "kustomization.yaml").read_text())["resources"]
    documents = [d for name in listed for d in yaml.safe_load_all((deploy / name).read_text())]
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


def pod(manifests, name):
    return manifests["Deployment", name]["spec"]["template"]["spec"]


def container(manifests, name):
    (only,) = pod(manifests, name)["containers"]
    return only


@pytest.fixture(scope="module")
def settings(manifests):
    """Of the server, read by the server's own parser."""
    return CliApp.run(ServerSettings, cli_args=container(manifests, "voicecohort-server")["args"])


def test_all_are_valid_and_none_names_a_namespace(manifests):
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        assert "namespace" not in manifest["metadata"]


def test_validator_finds_errors(manifests):
    deployment = manifests["Deployment", "voicecohort-server"]
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_every_manifest_is_listed(deploy):
    listed = yaml.safe_load((deploy / "kustomization.yaml").read_text())["resources"]
    there = {f"kubernetes/{path.name}" for path in (deploy / "kubernetes").iterdir()}
    beside = {"kubernetes/prometheus-adapter.yaml", "kubernetes/pod-monitor.yaml"}
    assert set(listed) == there - beside


def test_kustomize_output_is_valid_and_complete(deploy, manifests):
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", deploy], capture_output=True, text=True, timeout=60, check=True
    )
    made = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(done.stdout)}
    for manifest in made.values():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    (config,) = made.keys() - manifests.keys()
    assert config[0] == "ConfigMap"
    volumes = {v["name"]: v for v in pod(made, "voicecohort-envoy")["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config[1]
    for item in volumes["config"]["configMap"]["items"]:
        assert made[config]["data"][item["key"]] == (deploy / item["path"]).read_text()


def test_config_map_has_envoys_files(deploy, manifests):
    (generator,) = yaml.safe_load((deploy / "kustomization.yaml").read_text())["configMapGenerator"]
    source = {}
    for entry in generator["files"]:
        key, _, file = entry.rpartition("=")
        source[key or file] = file
    (config,) = (v for v in pod(manifests, "voicecohort-envoy")["volumes"] if v["name"] == "config")
    assert config["configMap"]["name"] == generator["name"]
    # The folder here is the folder there.
    items = {item["key"]: item["path"] for item in config["configMap"]["items"]}
    assert items == source
    assert all((deploy / file).is_file() for file in source.values())
    envoy = container(manifests, "voicecohort-envoy")
    mounts = {m["name"]: m["mountPath"] for m in envoy["volumeMounts"]}
    there = {f"{mounts['config']}/{path}" for path in items.values()}
    named = set(re.findall(r"path: (/etc/envoy/[^ }]+)", (deploy / "envoy-tls.yaml").read_text()))
    named.add(envoy["args"][envoy["args"].index("--config-path") + 1])
    named |= {w for w in envoy["lifecycle"]["preStop"]["exec"]["command"] if "/" in w}
    assert named == there


def test_certificates_of_envoy_are_where_it_looks(deploy, manifests):
    envoy = container(manifests, "voicecohort-envoy")
    mounts = {m["mountPath"] for m in envoy["volumeMounts"] if "secrets" in m["mountPath"]}
    text = "".join(path.read_text() for path in (deploy / "sds").iterdir())
    files = re.findall(r"filename: (\S+)", text)
    assert {file.rpartition("/")[0] for file in files} == mounts
    assert {file.rpartition("/")[2] for file in files} == {"tls.crt", "tls.key", "ca.crt"}
    assert set(re.findall(r"watched_directory: { path: (\S+) }", text)) == mounts


def test_envoy_takes_its_flags(manifests, deploy, tmp_path):
    """All but the configuration's place are given to the real one."""
    envoy = container(manifests, "voicecohort-envoy")
    flags = [deploy / "envoy.yaml" if "/" in flag else flag for flag in envoy["args"]]
    program = Path(sys.executable).with_name("envoy")
    done = subprocess.run(
        [program, *flags, "--mode", "validate"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Deprecated" not in done.stderr
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert f"/{envoy['image'].rpartition(':v')[2]}/" in version.stdout


def test_the_server_is_secured_and_its_files_are_mounted(settings, manifests):
    files = [getattr(settings, name) for name in ("tls_certificate", "tls_key", "tls_client_ca")]
    files += [settings.tokens, settings.checkpoint_keys]
    assert None not in files
    assert not settings.insecure
    server = container(manifests, "voicecohort-server")
    mounts = {Path(m["mountPath"]): m for m in server["volumeMounts"]}
    assert {file.parent for file in files} == set(mounts)
    volumes = {v["name"]: v for v in pod(manifests, "voicecohort-server")["volumes"]}
    for mount in mounts.values():
        assert "subPath" not in mount, "would never see a rotated secret"
        assert volumes[mount["name"]]["secret"]["secretName"].startswith("voicecohort-")


def test_ports_are_the_servers_and_envoys(settings, manifests, deploy):
    def ports(name):
        return {p["name"]: p["containerPort"] for p in container(manifests, name)["ports"]}

    assert ports("voicecohort-server") == {
        "grpc": int(settings.listen.rpartition(":")[2]),
        "health": int(settings.health_listen.rpartition(":")[2]),
        "metrics": int(settings.metrics_listen.rpartition(":")[2]),
    }
    static = yaml.safe_load((deploy / "envoy-tls.yaml").read_text())["static_resources"]
    listening = {
        entry["name"]: entry["address"]["socket_address"]["port_value"]
        for entry in static["listeners"]
    }
    assert ports("voicecohort-envoy") == {"grpc": listening["calls"], "watch": listening["watch"]}
    (replicas,) = (c for c in static["clusters"] if c["name"] == "replicas")
    (locality,) = replicas["load_assignment"]["endpoints"]
    address = locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    service = manifests["Service", address["address"]]["spec"]
    assert service["clusterIP"] == "None"
    assert [port["port"] for port in service["ports"]] == [address["port_value"]]
    assert address["port_value"] == ports("voicecohort-server")["grpc"]


def test_port_names_and_labels_exist(manifests, deploy):
    pods = {
        name: {port["name"] for port in container(manifests, name)["ports"]}
        for kind, name in manifests
        if kind == "Deployment"
    }
    for monitor in yaml.safe_load_all((deploy / "kubernetes/pod-monitor.yaml").read_text()):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in pods[monitor["metadata"]["name"]]
        (selected,) = monitor["spec"]["selector"]["matchLabels"].values()
        assert selected == monitor["metadata"]["name"]
        (label,) = endpoint["relabelings"]
        rules = {"metrics": "prometheus-rules.yaml", "watch": "envoy-rules.yaml"}
        jobs = set(re.findall(r'job="([^"]+)"', (deploy / rules[endpoint["port"]]).read_text()))
        assert {label["replacement"]} == jobs
    for (kind, name), manifest in manifests.items():
        text = yaml.safe_dump(manifest)
        named = set(re.findall(r"app\.kubernetes\.io/name: (\S+)", text))
        assert named <= set(pods), (kind, name)
        if kind == "Service":
            (port,) = manifest["spec"]["ports"]
            (target,) = named
            assert port["targetPort"] in pods[target]
        if kind == "NetworkPolicy":
            for rule in manifest["spec"]["ingress"]:
                assert {port["port"] for port in rule["ports"]} <= pods[name]
    assert (
        manifests["HorizontalPodAutoscaler", "voicecohort-server"]["spec"]["scaleTargetRef"]["name"]
        in pods
    )


def test_probes_check_the_right_service(manifests, settings):
    server = container(manifests, "voicecohort-server")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = server[name]["grpc"]
        assert probe == {"port": int(settings.health_listen.rpartition(":")[2]), "service": SERVICE}
    patience = (
        server["livenessProbe"]["periodSeconds"] * server["livenessProbe"]["failureThreshold"]
    )
    assert patience > settings.unhealthy_exit_seconds, "it ends by itself, saying why"


def test_there_is_time_to_drain(settings, manifests, deploy):
    grace = pod(manifests, "voicecohort-server")["terminationGracePeriodSeconds"]
    assert grace >= settings.drain_seconds + 20
    envoy = container(manifests, "voicecohort-envoy")
    seconds, port = envoy["lifecycle"]["preStop"]["exec"]["command"][-2:]
    grace_of_envoy = pod(manifests, "voicecohort-envoy")["terminationGracePeriodSeconds"]
    assert grace_of_envoy >= int(seconds) + 20
    assert int(seconds) > settings.drain_seconds, "a call that a server still finishes"
    admin = yaml.safe_load((deploy / "envoy-tls.yaml").read_text())["admin"]
    assert int(port) == admin["address"]["socket_address"]["port_value"]


def test_a_rollout_never_has_fewer_replicas(manifests):
    for name in ("voicecohort-server", "voicecohort-envoy"):
        strategy = manifests["Deployment", name]["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        budget = manifests["PodDisruptionBudget", name]["spec"]
        assert budget["maxUnavailable"] == 1
        selector = manifests["Deployment", name]["spec"]["selector"]
        assert budget["selector"] == selector


def test_pods_are_restricted(manifests, deploy):
    """Pod Security Standards, level restricted, and a root file system that cannot be written."""
    for name in ("voicecohort-server", "voicecohort-envoy"):
        of_pod = pod(manifests, name)
        assert not of_pod["automountServiceAccountToken"]
        assert of_pod["securityContext"]["runAsNonRoot"]
        assert of_pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(manifests, name)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "emptyDir" not in yaml.safe_dump(of_pod), "nothing is written"
    user = re.search(r"^USER (\d+)", (deploy / "Containerfile").read_text(), re.MULTILINE)[1]
    assert pod(manifests, "voicecohort-server")["securityContext"]["runAsUser"] == int(user)


def test_scaling_metric_exists(manifests, settings, deploy):
    scaler = manifests["HorizontalPodAutoscaler", "voicecohort-server"]["spec"]
    (metric,) = scaler["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"\n{name} 0.0\n" in generate_latest(Metrics().registry).decode()
    (rule,) = yaml.safe_load((deploy / "kubernetes/prometheus-adapter.yaml").read_text())["rules"][
        "custom"
    ]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    target = int(metric["pods"]["target"]["averageValue"])
    assert settings.max_calls / 2 < target < settings.max_calls
    assert scaler["minReplicas"] >= 2


def test_envoy_refuses_before_its_memory_is_full(manifests, deploy):
    config = yaml.safe_load((deploy / "envoy-tls.yaml").read_text())
    monitors = {
        m["name"]: m["typed_config"] for m in config["overload_manager"]["resource_monitors"]
    }
    heap = monitors["envoy.resource_monitors.fixed_heap"]["max_heap_size_bytes"]
    memory = container(manifests, "voicecohort-envoy")["resources"]["limits"]["memory"]
    assert memory == "1Gi"
    assert heap < 0.8 * 2**30
