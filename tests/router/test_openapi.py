"""The description of the API: valid by OpenAPI's own rules, true to the routes, shown by a page that fetches nothing else."""

import base64
import re
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from deployments.router.keys import Keys, mint_key
from tests.router.router_front import Front, ScriptedClient
from workflows import types
from workflows.base import BaseInferenceWorkflow


class Chat(BaseInferenceWorkflow[types.Generate, types.Generated, types.TextChunk]):
    """Answers in text."""

    def do_stream(self, preprocessed_data: Any) -> Any:
        yield types.TextChunk(text="a")


class Tensors(BaseInferenceWorkflow[types.Tensors, types.TensorsResult]):
    """Answers in tensors."""

    def do_run_model(self, preprocessed_data: types.Tensors) -> types.TensorsResult:
        return types.TensorsResult(outputs=preprocessed_data.inputs)


def house() -> Front:
    made = Front()
    made.add("odd", ScriptedClient())
    made.add("new", with_card=False)
    for name, workflow in (("chat", Chat()), ("tensors", Tensors())):
        made.add(name)
        made.directory.find(name).card = workflow.setup().card(name)
    return made


async def description() -> dict[str, Any]:
    found: dict[str, Any] = (await house().get("/openapi.json")).json()
    return found


async def test_it_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(await description()).validate()


async def test_every_route_is_described_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, item in (await description())["paths"].items() for method in item}
    general = {(method, path) for method, path in described if not re.search(r"/workflows/(odd|chat|tensors)/", path)}
    assert general == {(route.method, route.path) for route in house().app.table.routes}
    assert ("POST", "/v1/workflows/chat/stream") in described
    assert ("POST", "/v1/workflows/tensors/stream") not in described
    assert ("POST", "/v1/workflows/new/inference") not in described


async def test_what_the_door_answers_is_described() -> None:
    everywhere = {"400", "401", "403", "408", "414", "421", "431", "500"}
    paths = (await description())["paths"]
    for route in house().app.table.routes:
        if route.access != "public":
            described = set(paths[route.path][route.method.lower()]["responses"])
            assert described >= (everywhere | {"413", "415"} if route.body else everywhere), route.path


async def test_routes_that_need_no_key_say_so() -> None:
    paths = (await description())["paths"]
    for route in house().app.table.routes:
        public = paths[route.path][route.method.lower()].get("security") == [{}]
        assert public is (route.access == "public"), route.path


async def test_what_is_grouped_is_a_group_and_workflows_say_where_there_is_more_of_them() -> None:
    front = house()
    front.add("native")
    spec = (await front.get("/openapi.json")).json()
    tags = [tag["name"] for tag in spec["tags"]]
    assert {tag for item in spec["paths"].values() for operation in item.values() for tag in operation["tags"]} == set(
        tags
    )
    assert len(set(tags)) == len(tags)
    more = {tag["name"]: tag["externalDocs"]["url"] for tag in spec["tags"] if "externalDocs" in tag}
    assert set(more) == {"odd", "chat", "tensors"}
    for url in more.values():
        assert (await front.get(f"/{url}")).status_code == 200


def accepts(spec: dict[str, Any], path: str, body: Any) -> bool:
    schema = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return bool(Draft202012Validator({**schema, "components": spec["components"]}).is_valid(body))


async def test_workflows_bring_their_own_schemas() -> None:
    spec = await description()
    chat, tensors = "/v1/workflows/chat/inference", "/v1/workflows/tensors/inference"
    assert accepts(spec, chat, {"prompt": "a", "sampling": {"max_tokens": 5}})
    assert accepts(spec, chat, [{"messages": [{"role": "user", "content": "a"}]}])
    assert not accepts(spec, chat, {"messages": [{"role": "nobody", "content": "a"}]})
    assert not accepts(spec, chat, {"prompt": "a", "odd": 1})
    tensor = {"dtype": "float32", "shape": [1], "data": [1.5]}
    assert accepts(spec, tensors, {"inputs": {"x": tensor}})
    assert not accepts(spec, tensors, {"inputs": {"x": {**tensor, "dtype": "FP32"}}})
    infer = "/v2/models/{name}/infer"
    assert accepts(spec, infer, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]})
    assert not accepts(spec, infer, {"inputs": []})


async def test_only_where_no_path_names_the_model_a_body_must() -> None:
    spec = await description()
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for path, body in (("/chat/completions", chat), ("/completions", {"prompt": "a"})):
        assert accepts(spec, f"/v1{path}", {**body, "model": "m"})
        for lacking in (body, {**body, "model": None}):
            assert not accepts(spec, f"/v1{path}", lacking)
            assert accepts(spec, f"/tgi/{{name}}/v1{path}", lacking)
    assert accepts(spec, "/hf/{name}/v1/chat/completions", chat)


async def test_answers_are_as_described() -> None:
    front = house()
    spec = await description()
    for path in ("/v1/workflows", "/v2", "/v2/models/odd", "/v2/models/odd/ready", "/health", "/none"):
        answer = await front.get(path)
        if path == "/none":
            schema = {"$ref": "#/components/schemas/NativeError"}
        else:
            template = path.replace("odd", "{name}")
            schema = spec["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": spec["components"]}).validate(answer.json())


class Elements(HTMLParser):
    """The text of script and style elements, and every attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, str] = {}
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data


async def test_the_page_is_for_everybody_and_tells_nothing_itself() -> None:
    guarded = Front(Keys([mint_key("somebody")[1]]))
    guarded.add("secret")
    answer = await guarded.get("/docs")
    assert answer.status_code == 200
    assert answer.content == (await Front().get("/docs")).content
    assert (await guarded.get("/openapi.json")).status_code == 401


async def test_the_page_needs_only_the_description_and_its_policy_allows_nothing_else() -> None:
    answer = await house().get("/docs")
    page = Elements()
    page.feed(answer.text)
    assert not {name for name, _ in page.attributes} & {"src", "href", "onerror", "action"}
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        digest = base64.b64encode(sha256(page.texts[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    script = page.texts["script"]
    assert re.findall(r"fetch\((.*?),", script) == ["path"]
    assert re.findall(r"[^n] ask\((.*?),", script) == ["docs.url", '"openapi.json"']
    for kept in ("http", "innerHTML", "localStorage", "sessionStorage", "cookie", "location"):
        assert kept not in script
