"""`python -m deployments check`: every rule of a config file, with the path of the key it complains of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.__main__ import main
from deployments.checks import ROUTER_GRACE_S, WORKFLOW_GRACE_S, check_file, examine
from deployments.router.ingress import Router, ServeIngress
from deployments.router.keys import mint_key
from deployments.workflow_deployment import WorkflowDeployment

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
            "args": {"port": 8000, "grpc": {"port": 9000}, "limits": {"max_batch_items": 8}},
            "deployments": [{"name": "Router", "max_surge_percent": 100, "user_config": {"max_queue": 9}}],
        },
        {
            "name": "model",
            "route_prefix": None,
            "import_path": "deployments.app:workflow",
            "args": {"workflow": "tests.deployments.configured.Configured", "options": {"size": 1, "place": {"x": 1}}},
            "deployments": [
                {
                    "name": "WorkflowDeployment",
                    "ray_actor_options": {"num_cpus": 0.5, "runtime_env": {"env_vars": {"A": "1"}}},
                    "logging_config": {"log_level": "INFO"},
                    "user_config": {"batching": {"max_size": 4}},
                    "autoscaling_config": {
                        "max_replicas": 2,
                        "policy": {"policy_function": "deployments.autoscaling:by_items"},
                    },
                }
            ],
        },
        {
            "name": "somebody-elses",
            "import_path": "json:loads",
            "runtime_env": {"excludes": []},
            "args": {"anything": 1},
            "route_prefix": "/fruit",
        },
    ],
}
Change = Callable[[dict[str, Any]], Any]
KEYS = yaml.safe_dump({"keys": [mint_key("me")[1].model_dump()]})


@pytest.fixture
def complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.setenv("CHECKED_KEYS", KEYS)

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


def add_model(args: dict[str, Any]) -> Change:
    args = {"workflow": "tests.deployments.configured.Plain", **args}
    model = {"name": "second", "route_prefix": None, "import_path": "deployments.app:workflow", "args": args}
    return lambda content: content["applications"].append(model)


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


APP, MODEL, OTHER = "applications.0", "applications.1", "applications.2"
CALLBACK = "controller_options.runtime_env.env_vars.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
BEHIND_SERVE = both(
    put(f"{APP}.args.listen", "serve"),
    put(f"{APP}.args.grpc", None),
    put(f"{APP}.route_prefix", "/"),
    put("proxy_location", "HeadOnly"),
    put(CALLBACK, "deployments.router.control_headers.serve_middlewares"),
)
KEYED = put(f"{APP}.args.keys_env", "CHECKED_KEYS")
BRINGS_CODE = put(f"{OTHER}.runtime_env", {"pip": ["fruit"]})
OPTIONS = f"{MODEL}.deployments.0.ray_actor_options"
POLICY = f"{MODEL}.deployments.0.autoscaling_config.policy"
TRAFFIC = f"{APP}.deployments.0.user_config.traffic"


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
        f"{APP}.args.grpc.prot",
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
        f"{MODEL}.deployments.0.ray_actor_options.runtime_env.working_dri",
        f"{OTHER}.runtime_env.env_var",
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
        (put(f"{APP}.route_prefix", "/"), f"{APP}.route_prefix"),
        (put("proxy_location", "EveryNode"), f"{APP}.args.listen"),
        (lambda content: content.pop("proxy_location"), f"{APP}.args.listen"),
        (both(BEHIND_SERVE, put("proxy_location", "Disabled")), f"{APP}.args.listen"),
        (both(BEHIND_SERVE, put(f"{APP}.route_prefix", None)), f"{APP}.route_prefix"),
        (both(BEHIND_SERVE, put("http_options.host", "0.0.0.0")), "http_options.host"),
        (both(BEHIND_SERVE, put("http_options.host", "no such host"), KEYED), "http_options.host"),
        (both(BEHIND_SERVE, lambda content: content.pop("controller_options")), CALLBACK),
        (both(BEHIND_SERVE, put(CALLBACK, "deployments.router.control_headers:serve_middleware")), CALLBACK),
        (put(f"{APP}.args.drain_s", 599), f"{APP}.args.limits.stream_s"),
        (put(f"{APP}.args.limits.stream_s", 601), f"{APP}.args.limits.stream_s"),
        (put(f"{APP}.args.drain_s", 660), f"{APP}.args.drain_s"),
        (put(f"{APP}.deployments.0.graceful_shutdown_timeout_s", 600), f"{APP}.args.drain_s"),
        (both(BEHIND_SERVE, put(f"{APP}.args.limits.stream_s", 660)), f"{APP}.args.limits.stream_s"),
        (add_router("second", {"port": 8000, "grpc": None}), "applications.3.args.port"),
        (add_router("second", {"grpc": None}), "applications.3.args.port"),
        (add_router("second", {"port": "8000", "grpc": None}), "applications.3.args.port"),
        (add_router("second", {"port": 9000, "grpc": None}), "applications.3.args.port"),
        (add_router("second", {"port": 8001}), "applications.3.args.grpc.port"),
        (add_router("second", {"port": 8001, "grpc": {"port": 8000}}), "applications.3.args.grpc.port"),
        (put(f"{APP}.args.grpc", {"port": 8000}), f"{APP}.args: grpc.port: port 8000 is the router's own"),
        (put(f"{APP}.args.grpc", {"port": 70000}), f"{APP}.args.grpc.port"),
        (both(BEHIND_SERVE, put(f"{APP}.args.grpc", {"port": 9001})), f"{APP}.args: grpc: needs listen: own"),
        (
            put(f"{APP}.args.grpc", {"tls": {"cert_file": "/no/such.pem", "key_file": "/no/such.key"}}),
            f"{APP}.args.grpc.tls.cert_file: cannot read /no/such.pem",
        ),
        (
            put(f"{APP}.args.grpc", {"tls": {"cert_file": str(ROOT / "README.md"), "key_file": str(ROOT / "LICENSE")}}),
            f"{APP}.args.grpc.tls.key_file: ",
        ),
        (put(f"{MODEL}.import_path", "deployments.app:workfow"), f"{MODEL}.import_path"),
        (put(f"{MODEL}.import_path", "deployment.app:workflow"), f"{MODEL}.import_path"),
        (put(f"{OTHER}.import_path", "fruit:app"), f"{OTHER}.import_path"),
        (put(f"{OTHER}.import_path", "json:lods"), f"{OTHER}.import_path"),
        (put(f"{OTHER}.import_path", "json:decoder"), f"{OTHER}.import_path"),
        (put(f"{OTHER}.import_path", "tests.deployments.exits_on_import:app"), f"{OTHER}.import_path"),
        (both(put(f"{OTHER}.import_path", "deployment.app:router"), BRINGS_CODE), f"{OTHER}.import_path"),
        (put(f"{OTHER}.runtime_env", {"env_vars": {"THREADS": 1}}), f"{OTHER}.runtime_env.env_vars.THREADS"),
        (put(f"{OTHER}.runtime_env", {"env_vars": "A=1"}), f"{OTHER}.runtime_env.env_vars"),
        (put(f"{OPTIONS}.num_gpus", 1.5), f"{OPTIONS}.num_gpus"),
        (put(f"{OPTIONS}.num_gpus", "2.5"), f"{OPTIONS}.num_gpus"),
        (put(f"{MODEL}.deployments", ["WorkflowDeployment"]), f"{MODEL}.deployments.0"),
        (put(f"{MODEL}.deployments", [{"name": "WorkflowDeployment"}] * 2), f"{MODEL}.deployments.1"),
        (put(f"{POLICY}.policy_function", "no.such:fn"), f"{POLICY}.policy_function"),
        (put(f"{POLICY}.policy_function", "deployments.autoscaling:by_item"), f"{POLICY}.policy_function"),
        (put(f"{POLICY}.policy_function", "deployments.autoscaling:__all__"), f"{POLICY}.policy_function"),
        (put(f"{POLICY}.policy_function", "nowhere"), f"{POLICY}.policy_function"),
        (put(f"{MODEL}.args.aliases", ["org/m", "n", "org/m"]), f"{MODEL}.args.aliases.2"),
        (put(f"{MODEL}.args.aliases", ["somebody-elses"]), f"{MODEL}.args.aliases.0"),
        (
            both(put(f"{MODEL}.args.aliases", ["org/m"]), add_model({"aliases": ["org/m"]})),
            "applications.3.args.aliases.0",
        ),
        (add_model({"aliases": ["model"]}), "applications.3.args.aliases.0"),
        (put(f"{MODEL}.args.version", "a b"), f"{MODEL}.args.version"),
        (add_model({"version_of": "model"}), "applications.3.args.version: applications.1 is version 1 of model"),
        (add_model({"version_of": "somebody-elses"}), "applications.3.args.version_of: the application somebody-elses"),
        (put(f"{APP}.args.tgi_root", "modell"), f"{APP}.args.tgi_root: no workflow has that name"),
        (put(f"{APP}.args.tgi_root", "somebody-elses"), f"{APP}.args.tgi_root: no workflow has that name"),
        (put(f"{APP}.args.tgi_root", "org/m"), f"{APP}.args.tgi_root"),
        (put(TRAFFIC, {"modell": {"1": 1}}), f"{TRAFFIC}.modell: no workflow has that name"),
        (put(TRAFFIC, {"model": {"1": 1, "2": 1}}), f"{TRAFFIC}.model.2: no workflow is that version of model"),
        (put(TRAFFIC, {"model": {"1": 0}}), f"{TRAFFIC}"),
        (put(TRAFFIC, {"model": {"1": -1}}), f"{TRAFFIC}.model.1"),
        (put(TRAFFIC, {"model": {}}), f"{TRAFFIC}.model"),
        (put(TRAFFIC, {"model": {"1": float("nan")}}), f"{TRAFFIC}.model.1"),
        (put(TRAFFIC, {"model": {"1": 1e300}}), f"{TRAFFIC}.model.1"),
        (put(TRAFFIC, {"model": {"1": "most"}}), f"{TRAFFIC}.model.1"),
        (put(TRAFFIC, {"model": {1: 1, "1": 2}}), f"{TRAFFIC}: model: a version has two shares"),
        (both(put(f"{APP}.args.host", "no such host"), KEYED), f"{APP}.args.host"),
        (both(put(f"{APP}.args.host", "a..b"), KEYED), f"{APP}.args.host"),
        (put(f"{APP}.args.keys_file", str(ROOT / "README.md")), f"{APP}.args.keys_file: "),
        (put(f"{APP}.args.keys_file", "/no/such/file"), f"{APP}.args.keys_file: cannot read"),
        (
            both(put(f"{APP}.args.keys_file", "README.md"), KEYED),
            f"{APP}.args.keys_file: configure keys_file or keys_env",
        ),
        (put(f"{APP}.args.keys_env", "NO_SUCH_KEYS"), f"{APP}.args.keys_env: environment variable 'NO_SUCH_KEYS'"),
        (
            both(put(f"{APP}.args.keys_env", "K"), put(f"{APP}.runtime_env", {"env_vars": {"K": "nothing"}})),
            f"{APP}.args.keys_env",
        ),
        (put(f"{APP}.args.access_log", str(ROOT / "README.md" / "a.log")), f"{APP}.args.access_log"),
        (put(f"{APP}.args.access_log", str(ROOT)), f"{APP}.args.access_log"),
        (
            both(
                put(f"{MODEL}.args.workflow", "workflows.ONNXInferenceWorkflow"),
                put(f"{MODEL}.args.options", {"root": "package:workflows.demo", "model": "nope.onnx"}),
            ),
            f"{MODEL}.args.options: model 'nope.onnx' does not exist",
        ),
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
        add_router("second", {"port": 8001, "grpc": {"port": 9001}}),
        add_router("second", {"port": 8001, "grpc": None}),
        both(put(f"{APP}.args.port", 0), add_router("second", {"port": 0, "grpc": {"port": 0}})),
        both(put(f"{APP}.args.host", "0.0.0.0"), KEYED),
        both(put(f"{APP}.args.host", "::"), KEYED),
        both(put(f"{APP}.args.keys_env", "K"), put(f"{APP}.runtime_env", {"env_vars": {"K": KEYS}})),
        both(
            put(f"{APP}.args.keys_env", "K"),
            put(f"{APP}.deployments.0.ray_actor_options", {"runtime_env": {"env_vars": {"K": KEYS}}}),
        ),
        BEHIND_SERVE,
        both(BEHIND_SERVE, put(CALLBACK, "deployments.router.control_headers:serve_middlewares")),
        both(BEHIND_SERVE, put("http_options.host", "0.0.0.0"), KEYED),
        both(put(f"{OTHER}.import_path", "fruit:app"), BRINGS_CODE),
        put(f"{OTHER}.runtime_env", {"env_vars": {"THREADS": "1"}, "excludes": [], "config": {}}),
        put(f"{OPTIONS}.num_gpus", 2.0),
        put(f"{OPTIONS}.num_gpus", 0.5),
        put(f"{MODEL}.args.aliases", ["org/m", "model"]),
        put(f"{APP}.args.tgi_root", "model"),
        both(put(f"{MODEL}.args.aliases", ["m"]), put(f"{APP}.args.tgi_root", "m")),
        both(add_model({"version_of": "model", "version": 2}), put(TRAFFIC, {"model": {1: 90, "2": 10.5}})),
        add_model({"version_of": "third"}),
        both(put(f"{APP}.args.drain_s", 20), put(f"{APP}.args.limits.stream_s", 20)),
        both(put(f"{APP}.args.drain_s", 700), put(f"{APP}.deployments.0.graceful_shutdown_timeout_s", 701)),
        both(BEHIND_SERVE, put(f"{APP}.args.drain_s", 5)),
        lambda content: content["applications"][1].pop("deployments"),
    ],
)
def test_what_is_unusual_but_right_is_left_alone(complaints: Callable[..., list[str]], change: Change) -> None:
    assert complaints(change) == []


def test_the_grace_that_is_checked_is_what_deployments_have() -> None:
    graces: list[tuple[Any, float]] = [
        (Router, ROUTER_GRACE_S),
        (ServeIngress, ROUTER_GRACE_S),
        (WorkflowDeployment, WORKFLOW_GRACE_S),
    ]
    for deployment, grace in graces:
        assert deployment._deployment_config.graceful_shutdown_timeout_s == grace


def test_a_misspelt_builder_of_ours_is_recognised(complaints: Callable[..., list[str]]) -> None:
    (line,) = complaints(put(f"{MODEL}.import_path", "deployment.app:workflow"))
    assert line.endswith("; did you mean deployments.app:workflow?")


LONG_STREAMS = both(
    put(f"{APP}.args.limits.stream_s", 700),
    put(f"{APP}.args.drain_s", 700),
    put(f"{APP}.deployments.0.graceful_shutdown_timeout_s", 800),
)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda content: None, []),
        (put(f"{APP}.deployments.0.max_surge_percent", 0), [APP]),
        (lambda content: content["applications"][0].pop("deployments"), [APP]),
        (both(BEHIND_SERVE, put(f"{APP}.deployments.0.max_surge_percent", 0)), [APP]),
        (LONG_STREAMS, [MODEL]),
        (both(LONG_STREAMS, put(f"{MODEL}.deployments.0.graceful_shutdown_timeout_s", 699)), [MODEL]),
        (both(LONG_STREAMS, put(f"{MODEL}.deployments.0.graceful_shutdown_timeout_s", 700)), []),
    ],
)
def test_what_an_update_would_cost_is_a_warning(
    complaints: Callable[..., list[str]], tmp_path: Path, change: Change, where: list[str]
) -> None:
    assert complaints(change) == []
    assert [line.partition(".deployments: ")[0] for line in examine(tmp_path / "config.yaml").warnings] == where


def test_a_missing_folder_of_the_access_log_will_be_made(complaints: Callable[..., list[str]], tmp_path: Path) -> None:
    assert complaints(put(f"{APP}.args.access_log", str(tmp_path / "a" / "b" / "access.log"))) == []
    assert not (tmp_path / "a").exists()


def test_a_wrong_policy_does_not_hide_what_else_is_wrong(complaints: Callable[..., list[str]]) -> None:
    found = complaints(both(put(f"{POLICY}.policy_function", "no.such:fn"), put(f"{OPTIONS}.num_cpus", -1)))
    assert [line.partition(": ")[0] for line in found] == [f"{POLICY}.policy_function", f"{OPTIONS}.num_cpus"]


def test_several_faults_are_several_lines(complaints: Callable[..., list[str]]) -> None:
    found = complaints(both(put(f"{MODEL}.args.options", {"sise": 1}), put(f"{APP}.args.prot", 1), put("grcp", 1)))
    assert [line.partition(":")[0] for line in found] == [
        "grcp",
        f"{APP}.args.prot",
        f"{MODEL}.args.options.size",
        f"{MODEL}.args.options.sise",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"- a list",
        b"just text",
        b"",
        b"\xff\xfe",
        b"a: !!python/name:os.system",
        b"a: 2024-13-45",
        b"a: !!int x",
        b"a: !!bool x",
        b"a: !!timestamp x",
        b"a: !!float x",
        b"[" * 3000,
        b"applications: [{name: a, import_path: 'json:loads', runtime_env: {py_modules: 5}}]",
    ],
)
def test_what_is_no_config_at_all_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    (line,) = check_file(file)
    assert "\n" not in line


def test_keys_that_are_given_twice_are_named_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("applications:\n- name: a\n  args: {port: 1, port: 2}\n  name: b\napplications: []\n")
    assert check_file(file) == [
        "line 3: port is given again, after line 3",
        "line 4: name is given again, after line 2",
        "line 5: applications is given again, after line 1",
    ]


def test_what_a_merge_brings_may_be_given_again(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    first = (
        "proxy_location: Disabled\napplications:\n- &first {name: a, route_prefix: null, import_path: 'json:loads'}\n"
    )
    file.write_text(f"{first}- {{<<: *first, name: b}}\n")
    assert check_file(file) == []


def test_a_warning_is_printed_and_is_no_obstacle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    content = copy.deepcopy(GOOD)
    del content["applications"][0]["deployments"]
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["check", str(file)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{file}: ok\n"
    assert printed.err.startswith(f"{file}: warning: applications.0.deployments: max_surge_percent")


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
