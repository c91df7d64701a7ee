"""`python -m deployments check`: every rule of a config file, with the path of the key it complains of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.__main__ import main
from deployments.checks import ROUTER_GRACE_S, check_file
from deployments.router.ingress import Router, ServeIngress

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "proxy_location": "Disabled",
    "http_options": {"host": "127.0.0.1"},
    "grpc_options": {"port": 9001},
    "controller_options": {"runtime_env": {"env_vars": {"ANY": "1"}}},
    "logging_config": {"enable_access_log": False},
    "applications": [
        {
            "name": "router",
            "route_prefix": None,
            "import_path": "deployments.app:router",
            "args": {"port": 8000, "limits": {"max_batch_items": 8}},
            "deployments": [{"name": "Router", "user_config": {"max_queue": 9}}],
        },
        {
            "name": "model",
            "route_prefix": None,
            "import_path": "deployments.app:workflow",
            "args": {"workflow": "tests.deployments.configured.Configured", "options": {"size": 1, "place": {"x": 1}}},
            "deployments": [
                {
                    "name": "WorkflowDeployment",
                    "ray_actor_options": {"num_cpus": 0.5},
                    "logging_config": {"log_level": "INFO"},
                    "user_config": {"batching": {"max_size": 4}},
                    "autoscaling_config": {
                        "max_replicas": 2,
                        "policy": {"policy_function": "deployments.autoscaling:by_items"},
                    },
                }
            ],
        },
        {"name": "somebody-elses", "import_path": "fruit:app", "args": {"anything": 1}, "route_prefix": "/fruit"},
    ],
}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def complaints(tmp_path: Path) -> Callable[..., list[str]]:
    def check(change: Change = lambda content: None) -> list[str]:
        content = copy.deepcopy(GOOD)
        change(content)
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        found = check_file(file)
        assert all("\n" not in line for line in found)
        return found

    return check


def put(path: str, value: Any) -> Change:
    """A change that sets the value at a dotted path."""

    def change(content: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key) if isinstance(content, list) else key]
        content[int(last) if isinstance(content, list) else last] = value

    return change


def both(*changes: Change) -> Change:
    return lambda content: [change(content) for change in changes]


def add_router(name: str, args: Any) -> Change:
    router = {"name": name, "route_prefix": None, "import_path": "deployments.app:router", "args": args}
    return lambda content: content["applications"].append(router)


def test_a_good_file_has_no_complaints(complaints: Callable[..., list[str]]) -> None:
    assert complaints() == []


@pytest.mark.parametrize(
    "name", ["serve_config.yaml", "examples/gpu_config.yaml", "examples/serve_ingress_config.yaml"]
)
def test_our_own_files_are_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert check_file(Path(name)) == []


APP, MODEL = "applications.0", "applications.1"
BEHIND_SERVE = both(put(f"{APP}.args.listen", "serve"), put("proxy_location", "HeadOnly"))


@pytest.mark.parametrize(
    "where",
    [
        "proxy_locations",
        "http_options.hosts",
        "grpc_options.prot",
        "controller_options.runtime_envs",
        "logging_config.enable_acces_log",
        f"{APP}.impotr_path",
        f"{APP}.args.prot",
        f"{APP}.args.limits.max_body",
        f"{APP}.deployments.0.max_surge",
        f"{APP}.deployments.0.user_config.max_queued",
        f"{MODEL}.args.option",
        f"{MODEL}.args.options.sise",
        f"{MODEL}.args.options.place.z",
        f"{MODEL}.deployments.0.ray_actor_options.num_gpu",
        f"{MODEL}.deployments.0.logging_config.level",
        f"{MODEL}.deployments.0.autoscaling_config.max_replica",
        f"{MODEL}.deployments.0.autoscaling_config.policy.function",
        f"{MODEL}.deployments.0.user_config.batching.max_sizes",
    ],
)
def test_an_unknown_key_is_named_at_every_depth(complaints: Callable[..., list[str]], where: str) -> None:
    assert complaints(put(where, 1)) == [f"{where}: unknown key"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (put("proxy_location", "Sometimes"), "proxy_location"),
        (put("applications", "none"), "applications"),
        (put(f"{MODEL}.args", "text"), f"{MODEL}.args"),
        (put(f"{MODEL}.name", "router"), ""),
        (put(f"{MODEL}.name", "has space"), f"{MODEL}.name"),
        (put(f"{MODEL}.args.workflow", "no_such_module.Model"), f"{MODEL}.args.workflow"),
        (put(f"{MODEL}.args.workflow", "tests.deployments.configured.NotAWorkflow"), f"{MODEL}.args.workflow"),
        (put(f"{MODEL}.args.workflow", "tests.deployments.fails_on_import.X"), f"{MODEL}.args.workflow"),
        (put(f"{MODEL}.args.options", {"size": "many"}), f"{MODEL}.args.options.size"),
        (put(f"{MODEL}.args.options", {}), f"{MODEL}.args.options.size"),
        (put(f"{MODEL}.deployments.0.name", "Workflow"), f"{MODEL}.deployments.0.name"),
        (put(f"{MODEL}.deployments.0.user_config", {"max_queue": 0}), f"{MODEL}.deployments.0.user_config.max_queue"),
        (put(f"{MODEL}.import_path", "deployments.app.workflow"), f"{MODEL}.import_path"),
        (
            put(f"{MODEL}.deployments.0.autoscaling_config", {"max_replicas": 2}),
            f"{MODEL}.deployments.0.autoscaling_config.policy",
        ),
        (
            put(f"{MODEL}.deployments.0", {"name": "WorkflowDeployment", "num_replicas": "auto"}),
            f"{MODEL}.deployments.0.autoscaling_config.policy",
        ),
        (put(f"{APP}.deployments.0.name", "WorkflowDeployment"), f"{APP}.deployments.0.name"),
        (put(f"{APP}.args.port", [8000]), f"{APP}.args.port"),
        (put(f"{APP}.args.host", "0.0.0.0"), f"{APP}.args"),
        (put(f"{APP}.args.keys_file", "/no/such/file"), f"{APP}.args.keys_file"),
        (put(f"{APP}.route_prefix", "/"), f"{APP}.route_prefix"),
        (put("proxy_location", "EveryNode"), f"{APP}.args.listen"),
        (lambda content: content.pop("proxy_location"), f"{APP}.args.listen"),
        (put(f"{APP}.args.listen", "serve"), f"{APP}.args.listen"),
        (
            both(
                put(f"{APP}.args.listen", "serve"),
                put("proxy_location", "HeadOnly"),
                put("http_options.host", "0.0.0.0"),
            ),
            f"{APP}.http_options.host",
        ),
        (put(f"{APP}.args.drain_s", 599), f"{APP}.args.limits.stream_s"),
        (put(f"{APP}.args.limits.stream_s", 601), f"{APP}.args.limits.stream_s"),
        (put(f"{APP}.args.drain_s", 660), f"{APP}.args.drain_s"),
        (put(f"{APP}.deployments.0.graceful_shutdown_timeout_s", 600), f"{APP}.args.drain_s"),
        (both(BEHIND_SERVE, put(f"{APP}.args.limits.stream_s", 660)), f"{APP}.args.limits.stream_s"),
        (add_router("second", {"port": 8000}), "applications.3.args.port"),
        (add_router("second", {}), "applications.3.args.port"),
    ],
)
def test_a_rule_that_is_broken_is_one_complaint(
    complaints: Callable[..., list[str]], change: Change, where: str
) -> None:
    (line,) = complaints(change)
    assert line.startswith(f"{where}")
    assert not line.endswith("unknown key")


@pytest.mark.parametrize(
    "change",
    [
        add_router("second", {"port": 8001}),
        both(put(f"{APP}.args.port", 0), add_router("second", {"port": 0})),
        both(put(f"{APP}.args.host", "0.0.0.0"), put(f"{APP}.args.keys_env", "KEYS")),
        both(BEHIND_SERVE, put(f"{APP}.route_prefix", "/")),
        both(put(f"{APP}.args.drain_s", 20), put(f"{APP}.args.limits.stream_s", 20)),
        both(put(f"{APP}.args.drain_s", 700), put(f"{APP}.deployments.0.graceful_shutdown_timeout_s", 701)),
        both(BEHIND_SERVE, put(f"{APP}.args.drain_s", 5)),
        lambda content: content["applications"][1].pop("deployments"),
    ],
)
def test_what_is_unusual_but_right_is_left_alone(complaints: Callable[..., list[str]], change: Change) -> None:
    assert complaints(change) == []


def test_the_router_has_the_grace_that_is_checked() -> None:
    routers: list[Any] = [Router, ServeIngress]
    for router in routers:
        assert router._deployment_config.graceful_shutdown_timeout_s == ROUTER_GRACE_S


def test_several_faults_are_several_lines(complaints: Callable[..., list[str]]) -> None:
    found = complaints(both(put(f"{MODEL}.args.options", {"sise": 1}), put(f"{APP}.args.prot", 1), put("grcp", 1)))
    assert [line.partition(":")[0] for line in found] == [
        "grcp",
        f"{APP}.args.prot",
        f"{MODEL}.args.options.size",
        f"{MODEL}.args.options.sise",
    ]


@pytest.mark.parametrize(
    "content", [b"a: [", b"- a list", b"just text", b"", b"\xff\xfe", b"a: !!python/name:os.system"]
)
def test_what_is_no_config_at_all_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    (line,) = check_file(file)
    assert "\n" not in line


def test_the_command_says_ok_and_exits_with_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"


def test_the_command_names_the_fault_and_exits_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**GOOD, "grcp": 1}), encoding="utf-8")
    assert main(["check", str(file)]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"{file}: grcp: unknown key\n")
    assert main(["check", str(tmp_path / "missing.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["check"], ["serve"], ["key", "me", "--role", "king"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m deployments" in capsys.readouterr().err


def test_a_key_is_printed_once_with_what_to_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "alice", "--role", "operator", "--workflows", "digits-*"]) == 0
    printed = capsys.readouterr().out
    (entry,) = yaml.safe_load(printed)
    assert (entry["id"], entry["role"], entry["workflows"]) == ("alice", "operator", ["digits-*"])
    secret = printed.partition("stored nowhere: ")[2].split()[0]
    assert secret not in yaml.safe_dump(entry)
    assert main(["key", "has space"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
