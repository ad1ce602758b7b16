"""An exchange from a JSON file: what a client asked and what the model server answered, as they stood on the wire.

    {"agent": "coder",
     "path": "/v1/chat/completions",
     "request": {"model": "m", "messages": […], "tools": […]},
     "answer": {"choices": [{"index": 0, "message": {…}, "finish_reason": "stop"}]}}

``path`` may be that of any API that is judged; the answer is its whole (not streamed) one, and may be missing.
``earlier`` are exchanges of the same run before this one, each with ``request`` and ``answer``: what is known of the
run, and which tools are others than before, follows from them, but for what policies found then. ``owner``, ``team``,
``time`` (RFC 3339), ``run``, ``checks`` and ``budgets`` are what the decision input has under these names; ``run`` is
laid over what follows. The examples that lie beside policies are such files; their ``settings`` are laid over the
others'. The lines that ``interlock audit show ID --json`` prints are taken as well.
"""

from __future__ import annotations

import json
from collections.abc import Set
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from policies.facts.seen import tools_of_results
from policies.model import BudgetFacts, CheckFact, RunFacts, Stage
from proxy.call_logprobs import call_logprobs
from proxy.exchange import Seen
from proxy.replay.followed import NotOneRun, followed
from proxy.replay.stored import Stored, StoredCall, StoredChoice, stored
from serving.endpoints import EndpointClass, classify
from serving.wire.dialect import Coerced, Dialect, UpstreamRefuses, WholeAnswer
from serving.wire.dialects import FETCHES, dialect_of
from serving.wire.request import ChatRequest
from tracing.exchange import Exchange
from tracing.records import AnyRecord, Decided

CHAT = "/v1/chat/completions"
FROM_FILE = "file"
"""The id of an exchange that no record has."""

_FIELDS = frozenset(
    (
        *("agent", "owner", "team", "time", "path", "earlier", "request", "answer", "run", "checks", "budgets"),
        *("title", "description"),
    )
)
_BESIDE = frozenset(("settings", "findings"))
"""What examples of policies say besides (``policies.authoring.examples``); ``settings`` are for :func:`settings_in`."""


class FileError(ValueError):
    """A file that is no exchange: which, and what is expected."""


def exchange_in(path: Path) -> Stored:
    """Raises :class:`FileError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {error}") from error
    try:
        plain = json.loads(text)
    except ValueError:
        return _from_lines(path, text)
    if isinstance(plain, dict) and "record" in plain:
        return _from_lines(path, json.dumps(plain))
    return exchange_of(plain, str(path))


def settings_in(path: Path) -> dict[str, Any]:
    """The settings that the exchange in a file is to be seen under, as far as it says any."""
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    said = plain.get("settings") if isinstance(plain, dict) else None
    return said if isinstance(said, dict) else {}


def _json_problem(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return "no exchange"


def _from_lines(path: Path, text: str) -> Stored:
    try:
        records = [msgspec.convert(json.loads(line)["record"], AnyRecord) for line in text.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        what = f"{path}: neither an exchange in JSON nor records of `interlock audit show --json`"
        raise FileError(f"{what}; as JSON: {_json_problem(text)}") from error
    exchange = Exchange(records[0].exchange if records else "")
    for record in records:
        exchange.add(record)
    found = stored(exchange)
    if found is None:
        raise FileError(f"{path}: has no `opened` record, with which an exchange begins")
    return found


def exchange_of(plain: Any, where: str) -> Stored:
    """The exchange that ``plain`` describes. Raises :class:`FileError`."""
    if not isinstance(plain, dict) or not isinstance(plain.get("request"), dict):
        raise FileError(f'{where}: expected an object with a "request" (an API\'s request body)')
    if unknown := sorted(set(plain) - _FIELDS - _BESIDE):
        raise FileError(f"{where}: does not know {', '.join(unknown)}; there are: {', '.join(sorted(_FIELDS))}")
    target = str(plain.get("path", CHAT))
    agent = str(plain.get("agent", "anonymous"))
    dialect = _dialect(target, plain["request"], where)
    view = _request(dialect, plain["request"], where)
    answer = _answer(dialect, plain["answer"], where) if plain.get("answer") is not None else None
    earlier = [_earlier(target, one, f"{where}: earlier") for one in plain.get("earlier") or ()]
    try:
        seen = followed(agent, earlier, view) if earlier else None
    except NotOneRun as problem:
        raise FileError(f"{where}: {problem}") from None
    known = seen.run.facts().model_dump(mode="json") if seen is not None else {}
    first = seen.new_from if seen is not None else 0
    try:
        run = RunFacts.model_validate({"id": "file", **known, **(plain.get("run") or {})})
        moment = {
            name: [kind.model_validate(one).model_dump(mode="json") for one in plain.get(name) or ()]
            for name, kind in (("checks", CheckFact), ("budgets", BudgetFacts))
        }
        opened = int(datetime.fromisoformat(plain["time"]).timestamp() * 1e9) if "time" in plain else 0
    except (ValidationError, ValueError, TypeError) as error:
        raise FileError(f"{where}: {error}") from error
    changed = seen.changed_tools if seen is not None else frozenset()
    choices = answer.choices if answer is not None else ()
    return Stored(
        id=FROM_FILE,
        agent=agent,
        owner=plain.get("owner"),
        team=plain.get("team"),
        api=dialect.api,
        request=view,
        news=view.messages[first:],
        message_count=len(view.messages),
        opened_ns=opened,
        run=run,
        unknown={},
        news_tools=tuple(tools_of_results(view.messages)[first:]),
        changed_tools=changed,
        choices=[StoredChoice(one.number, one.text, one.reasoning, one.finish, one.calls) for one in choices],
        calls=[StoredCall(call, "") for one in choices for call in one.calls],
        decided=_moments(view, answer, changed, {"run": run.model_dump(mode="json"), **moment}),
    )


def _earlier(target: str, plain: Any, where: str) -> tuple[ChatRequest, WholeAnswer]:
    if not isinstance(plain, dict) or not isinstance(plain.get("request"), dict) or plain.get("answer") is None:
        raise FileError(f'{where}: expected objects with "request" and "answer"')
    dialect = _dialect(target, plain["request"], where)
    return _request(dialect, plain["request"], where), _answer(dialect, plain["answer"], where)


def _request(dialect: Dialect, plain: dict[str, Any], where: str) -> ChatRequest:
    view = dialect.request(plain)
    if not isinstance(view, ChatRequest):
        problem = view.message if isinstance(view, Coerced) else view.reason
        raise FileError(f"{where}: request: {view.field}: {problem}")
    return view


def _dialect(target: str, request: Any, where: str) -> Dialect:
    endpoint = classify("POST", target)
    if endpoint.klass is not EndpointClass.JUDGED or endpoint.name in FETCHES:
        raise FileError(f"{where}: path {target}: expected a path that is judged, such as {CHAT}")
    dialect = dialect_of(endpoint.name, request)
    if isinstance(dialect, Coerced | UpstreamRefuses):
        raise FileError(f"{where}: request: {dialect.field}: neither a chat request nor a completion")
    return dialect


def _answer(dialect: Dialect, plain: Any, where: str) -> WholeAnswer:
    try:
        answer = dialect.answer(json.dumps(plain).encode())
    except (ValueError, UnicodeEncodeError):
        answer = None
    if answer is None:
        raise FileError(f'{where}: "answer" is not a whole answer of the {dialect.api} API')
    return answer


def _moments(
    request: ChatRequest, answer: WholeAnswer | None, changed: Set[str], moment: dict[str, Any]
) -> list[Decided]:
    """What the file says of the moment, for every place that may be asked about."""
    seen = Seen()
    seen.keep_tokens(frozenset(tool.name for tool in request.tools))
    if answer is not None:
        seen.whole(answer)
    places: list[tuple[Stage, str, dict[str, Any]]] = [(Stage.REQUEST, "request", {})]
    for choice in answer.choices if answer is not None else ():
        for call in choice.calls:
            sure = call_logprobs(seen, call)
            of_call = {
                "changed": call.name in changed,
                "logprobs": sure.model_dump(mode="json") if sure is not None else None,
            }
            places.append((Stage.TOOL_CALL, f"call {call.choice}.{call.index}", {"call": of_call}))
        places += [
            (Stage.REASONING, f"reasoning of choice {choice.number}", {}),
            (Stage.OUTPUT, f"text of choice {choice.number}", {}),
            (Stage.RESPONSE, f"choice {choice.number}", {}),
        ]
    return [Decided(time_ns=0, stage=stage.value, surface=place, moment=moment | of) for stage, place, of in places]
