"""File, variables and flags become settings, and each error says where, what and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config_file import ConfigError, Override, load
from serving.settings import Settings


def written(folder: Path, text: str) -> Path:
    path = folder / "interlock.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(file: Path | None, environ: dict[str, str] | None = None, *overrides: Override) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, overrides)
    assert len(caught.value.problems) == 1, str(caught.value)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_no_file_no_variable_and_no_flag_give_the_defaults() -> None:
    assert load(None, {}) == Settings()


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing yet\n"), {}) == Settings()


def test_a_variable_wins_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    file = written(tmp_path, "listen: {port: 1000, admin_port: 1001, drain_seconds: 5}\n")
    environ = {"INTERLOCK_LISTEN__PORT": "2000", "INTERLOCK_LISTEN__ADMIN_PORT": "2001"}
    settings = load(file, environ, [Override("listen.port", 3000, "--port")])
    assert (settings.listen.port, settings.listen.admin_port, settings.listen.drain_seconds) == (3000, 2001, 5)


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = written(tmp_path, "unjudged: allow\n")
    assert load(None, {"INTERLOCK_CONFIG": str(file)}).unjudged == "allow"


def test_plain_nested_and_json_variables_are_read() -> None:
    settings = load(
        None,
        {
            "INTERLOCK_UNJUDGED": "allow",
            "INTERLOCK_TRACING__MLFLOW__URL": "http://mlflow:5000",
            "INTERLOCK_TRACING__OTLP": '[{"endpoint": "http://collector:4318/v1/traces"}]',
            "INTERLOCK_AGENTS__ALICE__KEYS": '["k1"]',
            "INTERLOCK_POLICIES__MODES": '{"interlock.shell": "off"}',
            "HOME": "/nowhere",
        },
    )
    assert settings.unjudged == "allow"
    assert settings.tracing.mlflow is not None
    assert settings.tracing.mlflow.url == "http://mlflow:5000"
    assert settings.tracing.otlp[0].endpoint == "http://collector:4318/v1/traces"
    assert settings.agents["alice"].keys[0].get_secret_value() == "k1"
    assert settings.policies.modes == {"interlock.shell": "off"}


def test_a_mode_may_be_off_in_the_file(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "policies:\n  modes:\n    interlock.shell: off\n"), {})
    assert settings.policies.modes == {"interlock.shell": "off"}


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("limits:\n  reqest_bytes: 5\n", 2, ["limits.reqest_bytes", "did you mean `request_bytes`"]),
        ("listn:\n  port: 1\n", 1, ["listn", "did you mean `listen`"]),
        ("port: 9000\n", 1, ["port", "belongs under `listen`"]),
        ("limits:\n  request_bytes: 0\n", 2, ["limits.request_bytes", "is 0", "greater than 0"]),
        ("unjudged: maybe\n", 1, ["unjudged", "'maybe'", "'refuse' or 'allow'"]),
        ("listen:\n  port: many\n", 2, ["listen.port", "'many'", "integer"]),
        ("listen: 8080\n", 1, ["listen", "section"]),
        ("control_paths: /sleep\n", 1, ["control_paths", "list"]),
        ("control_paths: [sleep]\n", 1, ["control_paths.0", "^/"]),
        ("a: 1\na: 2\n", 2, ["stands twice"]),
        ("tracing:\n  mlflow:\n    experiment: x\n", 2, ["tracing.mlflow.url", "missing"]),
        ("upstream:\n  url: localhost:8000\n", 2, ["upstream.url", "http://"]),
        ("upstream:\n  url: http://u:p@h\n", 2, ["upstream.url", "user name or password"]),
        ("agents:\n  'a b':\n    team: x\n", 2, ["agents", "form"]),
        ("agents:\n  a:\n    keys: ['']\n", 3, ["agents.a.keys.0", "empty"]),
        ("model:\n  name: x\nupstream:\n  url: http://h\n", 2, ["model.name", "keep one"]),
        ("breakers:\n  repeat_alert: 5\n", 1, ["breakers.repeat_trip", "at least"]),
        ("checks:\n  llm:\n    threshold: 0.7\n", 2, ["checks.llm.model", "names no model"]),
        ("checks:\n  llm:\n    model: m\n    key: k\n", 4, ["checks.llm.key", "upstream.api_key"]),
        ("policies:\n  opa_url: http://h\n", 2, ["policies.opa_url", "engine: opa"]),
        ("listen:\n  port: 9\n  admin_port: 9\n", 3, ["listen.admin_port", "both listeners"]),
    ],
)
def test_an_error_names_the_line_the_key_and_the_remedy(tmp_path: Path, text: str, line: int, parts: list[str]) -> None:
    file = written(tmp_path, text)
    said = problem(file)
    assert said.startswith(f"{file}:{line}: ")
    for part in parts:
        assert part in said


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "limits: {request_bytes: 0, json_depth: x}\nunjudged: maybe\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert len(caught.value.problems) == 3


def test_an_error_of_a_variable_or_flag_names_it(tmp_path: Path) -> None:
    file = written(tmp_path, "listen: {port: 1}\n")
    assert problem(file, {"INTERLOCK_LISTEN__PORT": "x"}).startswith("INTERLOCK_LISTEN__PORT: listen.port: ")
    assert problem(file, {}, Override("listen.port", 70000, "--port")).startswith("--port: listen.port: ")
    assert problem(None, {"INTERLOCK_LIMITS": "{"}).startswith("INTERLOCK_LIMITS: is not valid JSON")


def test_a_misspelt_variable_is_an_error() -> None:
    said = problem(None, {"INTERLOCK_UNJUGED": "allow"})
    assert said.startswith("INTERLOCK_UNJUGED: ")
    assert "INTERLOCK_UNJUDGED" in said
    assert "listen.prot" in problem(None, {"INTERLOCK_LISTEN__PROT": "1"})


def test_variables_of_other_commands_are_no_error_and_the_opa_command_counts() -> None:
    environ = {"INTERLOCK_OPA": "/x/opa", "INTERLOCK_LANE_VLLM": "/x", "INTERLOCK_CACHE": "/c"}
    assert load(None, environ).policies.opa == Path("/x/opa")
    assert load(None, environ | {"INTERLOCK_POLICIES__ENGINE": "opa"}).policies.opa == Path("/x/opa")
    assert load(None, environ | {"INTERLOCK_POLICIES__OPA": "/y/opa"}).policies.opa == Path("/y/opa")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in problem(tmp_path / "none.yaml")
    assert "mapping" in problem(written(tmp_path, "- 1\n"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    assert "UTF-8" in problem(binary)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.example", ""])
def test_a_bind_beyond_loopback_needs_keys_or_a_word(host: str) -> None:
    bind = Override("listen.host", host, "--host")
    said = problem(None, {}, bind)
    assert said.startswith("--host: listen.host: ")
    assert "--insecure-open" in said
    assert load(None, {"INTERLOCK_AGENTS__A__KEYS": '["k"]'}, [bind]).listen.host == host
    assert load(None, {"INTERLOCK_LISTEN__INSECURE_OPEN": "true"}, [bind]).listen.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_bind_to_loopback_needs_nothing(host: str) -> None:
    assert load(None, {}, [Override("listen.host", host, "--host")]).listen.host == host


def test_an_admin_bind_beyond_loopback_needs_a_token() -> None:
    bind = Override("listen.admin_host", "0.0.0.0", "--admin-host")
    assert "listen.admin_token" in problem(None, {}, bind)
    assert load(None, {"INTERLOCK_LISTEN__ADMIN_TOKEN": "t"}, [bind]).listen.admin_host == "0.0.0.0"


def test_secrets_come_from_variables_and_files_and_only_where_a_secret_is_meant(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("from-file\n", encoding="utf-8")
    file = written(
        tmp_path,
        f"""
upstream: {{api_key: "${{UPSTREAM}}"}}
agents: {{a: {{keys: ["${{file:{key}}}"], owner: "${{UPSTREAM}}"}}}}
policies: {{data: {{interlock.shell: {{pattern: "${{IFS}}"}}}}}}
""",
    )
    settings = load(file, {"UPSTREAM": "from-variable"})
    assert settings.upstream.api_key is not None
    assert settings.upstream.api_key.get_secret_value() == "from-variable"
    assert settings.agents["a"].keys[0].get_secret_value() == "from-file"
    assert settings.agents["a"].owner == "${UPSTREAM}"
    assert settings.policies.data == {"interlock.shell": {"pattern": "${IFS}"}}


def test_a_secret_that_cannot_be_found_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "upstream:\n  api_key: ${NOT_THERE}\n")
    assert problem(file).startswith(f"{file}:2: upstream.api_key: the variable NOT_THERE is not set")
    file = written(tmp_path, f"upstream:\n  api_key: ${{file:{tmp_path}/none}}\n")
    assert "cannot be read" in problem(file)


def test_no_error_and_no_dump_shows_a_secret(tmp_path: Path) -> None:
    canary = "canary-7f3a"
    file = written(tmp_path, f"agents: {{a: {{keys: [{canary}]}}, b: {{keys: [{canary}]}}}}\n")
    assert canary not in problem(file)
    file = written(tmp_path, f"upstream: {{api_key: [{canary}]}}\n")
    assert canary not in problem(file)
    settings = load(None, {"INTERLOCK_UPSTREAM__API_KEY": canary})
    assert canary not in settings.model_dump_json() + repr(settings)
