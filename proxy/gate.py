"""What the client is given of a streamed answer: pass, hold, release, refuse, cut.

The gate is a plain object: events and verdicts in, bytes and questions out. It opens no socket, reads no clock and
starts no task; the relay feeds it, sends what it gives and has its questions answered.

How to think about it. The unit is the whole event, and each choice of the answer has a queue and a state of its
own; the states and the table of their transitions are in ``proxy.gated_choice``.

A call is complete when a higher index begins in its choice or when its choice finishes; never because its JSON
parses. Each complete call is asked about once. An event leaves the queue when it is at the head and every call that
it touches, or may touch, has its verdict. Denied calls vanish: their events become one text event with the refusal,
the calls that stay are renumbered so that no gap shows, and events that show tokens of a denied call lose their
logprobs and token ids. What a verdict masks, in a text that waits or in a call's arguments, is changed in the events
that say it. What becomes of an event is in ``proxy.gated_change``.

Events without choices (usage, ``[DONE]``) wait until no choice holds anything. An error event drops all that is
held and passes at once. After :meth:`Gate.cut` nothing is accepted any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from proxy.gated_change import LOOK_AHEAD, leaving
from proxy.gated_choice import NEXT, Answer, Choice, HeldCall, HeldEvent, Kind, Problem, Question, State, TextQuestion
from proxy.gated_text import Found, Place, TextRule, TextWatch
from serving.wire.masking import Surface
from serving.wire.vocabulary import ChoiceDelta, Event, ToolCall, Usage
from serving.wire.writer import StreamWriter

_FLOW, _PLAIN = State.FLOW, Kind.PLAIN  # an enum's member by its name costs more than the rest of a look

_TOO_LONG = "The answer was stopped: it is longer than what may be held for judging."


class Gate:
    """One streamed answer.

    ``hold``: calls wait for their verdict; if False they are asked about and pass meanwhile (no policy in
    force could change them). ``watch_tokens``: the answer may show tokens of calls in logprobs or token ids.
    ``late_text``: tokens come some time before their text, so that none is known for an event's own.
    ``held_limit``: bytes that may be held, over all choices; a call beyond is asked about as unfit.
    ``closing``: finish reason of a choice whose calls were all refused. ``texts``: the surfaces of text that a
    verdict may stop (``proxy.gated_text``); ``offered``: the request's tools, where calls in plain text are judged
    too (None: they are not).
    """

    def __init__(
        self,
        writer: StreamWriter,
        *,
        hold: bool = True,
        watch_tokens: bool = False,
        late_text: bool = False,
        held_limit: int = 1024 * 1024,
        closing: str = "stop",
        texts: Mapping[Surface, TextRule] | None = None,
        offered: frozenset[str] | None = None,
    ) -> None:
        self._writer = writer
        self._hold = hold
        self._rules = texts or {}
        self._offered = offered
        self._texts = bool(self._rules) or offered is not None
        self._watch = watch_tokens and (hold or self._texts)
        self._late = late_text
        self._limit = held_limit
        self._closing = closing
        self._choices: dict[int, Choice] = {}
        self._tail: list[Event] = []
        self._out: list[bytes] = []
        self._questions: list[Question | TextQuestion] = []
        self._tickets: dict[int, tuple[int, Choice, HeldCall | None]] = {}
        self._next_ticket = 0
        self._template: Event | None = None
        self._tracks = writer.tracks
        self.alive = writer.alive
        self._failed = False
        self.held_bytes = 0
        self.over = False

    # -- what the relay takes out ------------------------------------------------------------------

    def take(self) -> list[bytes]:
        """Bytes to send now, in order."""
        out, self._out = self._out, []
        return out

    def questions(self) -> list[Question | TextQuestion]:
        """Calls and texts to judge, each once."""
        asked, self._questions = self._questions, []
        return asked

    @property
    def asks(self) -> bool:
        """Whether there are :meth:`questions`."""
        return bool(self._questions)

    @property
    def takes_runs(self) -> bool:
        """Whether plain events may come several as one: not where a verdict on their text may come between them."""
        return not self._rules

    def idle(self, number: int) -> bool:
        """Whether events of a choice that say text in which no call can begin pass at once, whatever comes of others
        meanwhile; such events may be told later (:meth:`feed`), without their bytes and several as one."""
        choice = self._choices.get(number)
        if choice is None or choice.state is not _FLOW or self._rules or self._tracks or self.held_bytes or self.over:
            return False
        return choice.texts is None or choice.texts.idle

    @property
    def holding(self) -> bool:
        return self.held_bytes > 0

    def settled(self, choice: int) -> bool:
        """``choice`` has finished, and all that the client gets of it is decided."""
        state = self._choices[choice].state if choice in self._choices else State.ENDED
        return self.over or state is State.ENDED or (self._passes and state is State.DRAIN)

    @property
    def _passes(self) -> bool:
        """No verdict can change anything: nothing is ever held."""
        return not self._hold and not self._texts

    # -- what the relay puts in --------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """The next event of the answer."""
        if self.over:
            return
        if event.kind == "delta" or event.choices:
            if event.count == 1 and event.raw:
                self._template = event
            if len(event.choices) == 1:
                self._choice_event(event, event.choices[0])
            else:
                self._several(event)
            return
        if event.kind == "error":
            self.fail(self._writer.passed(event) if self._tracks else event.raw)
            return
        if event.kind == "done" and self._failed:
            self.fail()  # what came behind the error
        elif event.kind == "done":
            self._close_open_calls()
        if self.held_bytes:
            self._tail.append(event)
            self.held_bytes += len(event.raw)
            self._bound()
        else:
            self._pass(event)

    def _pass(self, event: Event) -> None:
        self._out.append(self._writer.passed(event) if self._tracks else event.raw)

    def _close_open_calls(self) -> None:
        """``[DONE]`` came though some choice never finished: its calls are what they are, incomplete."""
        for number, choice in self._choices.items():
            self._complete(number, choice, complete=False)
            if choice.texts is not None:
                self._ask_texts(number, choice, choice.texts.finish())
            self._resolve_doubt(choice, set(), choice.texts.here if choice.texts is not None else ())
            self._drain(choice)

    def answer(self, ticket: int, answer: Answer) -> None:
        """The verdict on a question."""
        number, choice, call = self._tickets.pop(ticket, (0, None, None))
        if self.over or choice is None:
            return
        if call is not None:
            call.answer = answer
        elif choice.texts is not None:
            choice.texts.open.discard(ticket)
            if answer.surface is not None and answer.masks is not None:
                choice.texts.mask(answer.surface, answer.masks)
            elif answer.surface is not None:
                self._ask_texts(number, choice, choice.texts.settle(answer.surface))
        if answer.error and answer.refusal is not None:
            self.abort(403, "policy_denied", answer.refusal)
            return
        if answer.cut and answer.refusal is not None:
            self.cut(answer.refusal)
            return
        self._drain(choice)
        self._bound()

    def fail(self, raw: bytes = b"") -> None:
        """Upstream failed: what is held is dropped, ``raw`` (its own error event, or nothing) passes. No verdict
        counts any more."""
        self._failed = True
        for choice in self._choices.values():
            choice.queue.clear()
            choice.state = State.ENDED
            if choice.texts is not None:
                choice.texts.open.clear()
        self._tail.clear()
        self.held_bytes = 0
        self._questions.clear()
        self._tickets.clear()
        for choice in self._choices.values():
            for call in choice.calls.values():
                call.complete = True
        if raw:
            self._out.append(raw)

    def end(self) -> bool:
        """The stream is over. False if it broke off while something was held (which is then dropped)."""
        if self.over or not self.held_bytes:
            return True
        if any(event.kind == "done" for event in self._tail):
            return True
        if all(event.kind == "comment" for event in self._tail) and all(
            c.state is State.DRAIN for c in self._choices.values() if c.queue
        ):
            return True  # an API whose last event is a choice's own
        self.fail()
        return False

    def cut(self, text: str, *, finish: str | None = None, usage: Usage | None = None) -> None:
        """End the whole answer here: each open choice says ``text`` and stops."""
        self.over = True
        template = self._template
        for number, choice in sorted(self._choices.items()):
            if choice.state is not State.ENDED and template is not None:
                self._say(choice, template, number, text)
                self._out.append(self._writer.finish(template, number, finish or self._closing))
            choice.queue.clear()
            choice.state = State.ENDED
        self._tail.clear()
        self.held_bytes = 0
        self._questions.clear()
        if template is not None and usage is not None:
            self._out.append(self._writer.usage(template, usage))
        self._out.append(self._writer.ending())

    def abort(self, status: int, code: str | None, message: str) -> None:
        """End the answer with an error event, as the model server reports its own failures. ``code`` None: the
        status is the code, as in the model server's own errors."""
        self.fail(self._writer.error(status, code, message))
        self.over = True
        self._out.append(self._writer.ending())

    # -- one choice --------------------------------------------------------------------------------

    def _several(self, event: Event) -> None:
        """vLLM's events speak of one choice each; of an event with several, each part goes its own way."""
        simple = all(
            self._kind(delta) is Kind.PLAIN and self._state(delta.choice).state is State.FLOW for delta in event.choices
        )
        if (simple and not self._texts) or self._passes:
            for delta in event.choices:
                self._choice_event(event, delta, emit=False)
            self._pass(event)
            return
        parts = self._writer.split(event)
        for raw, delta in zip(parts, event.choices, strict=True):
            self._choice_event(Event(raw, "delta", (delta,), event.usage, answer_id=event.answer_id), delta)

    def _state(self, number: int) -> Choice:
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = Choice(TextWatch(self._rules, self._offered) if self._texts else None)
        return choice

    def _kind(self, delta: ChoiceDelta) -> Kind:
        if delta.tools:
            return Kind.CALL
        if delta.finish is not None:
            return Kind.FINISH
        if self._watch and delta.tokens:
            shown = (delta.reasoning or "") + (delta.text or "")
            if not shown or self._late:
                return Kind.BLIND
            if delta.logprob_text is None:
                return Kind.BLIND if delta.tokens > 1 else Kind.PLAIN
            if delta.logprob_text != shown:
                return Kind.BLIND
        return Kind.PLAIN

    def _choice_event(self, event: Event, delta: ChoiceDelta, *, emit: bool = True) -> None:
        choice = self._choices.get(delta.choice) or self._state(delta.choice)
        kind = _PLAIN  # as nearly every event is
        if delta.tools or delta.finish is not None or (delta.tokens and self._watch):
            kind = self._kind(delta)
        if self._late and kind is _PLAIN and choice.state is State.DOUBT:
            kind = Kind.BLIND  # what it says explains no tokens
        flows = kind is _PLAIN and choice.state is _FLOW
        place: Place = ()
        if choice.texts is not None:
            place, found = choice.texts.take(delta)
            if found and any(one.calls for one in found):
                flows = False  # a whole call may stand in one event, or in a run of them
            if flows := flows and not choice.queue and not choice.texts.waits(place):
                choice.texts.gave(place)
            if found:
                self._ask_texts(delta.choice, choice, choice.texts.standing(found))
        if flows:
            if delta.text and not choice.said:
                choice.said = not delta.text.isspace()
            if emit:
                self._pass(event)
            return
        following = NEXT[choice.state][kind]
        if following is not None and kind is Kind.CALL and not self._take_pieces(delta, choice):
            following = None
        if following is None and self._passes:
            if emit:
                self._pass(event)
            return
        if following is None and not self._hold:
            following = choice.state  # its verdicts change nothing
        if following is None:
            self.cut("The answer was stopped: it went on with a tool call that had ended.")
            return
        if delta.finish is not None:
            following = State.DRAIN  # until its queue is empty
        touches = {tool.index for tool in delta.tools}
        if kind is not Kind.BLIND:
            self._resolve_doubt(choice, touches, choice.texts.here if choice.texts is not None else ())
        choice.state = following
        if delta.finish is not None:
            self._complete(delta.choice, choice, complete=delta.finish != "length")
            if choice.texts is not None:
                self._ask_texts(delta.choice, choice, choice.texts.finish())
        if self._passes:
            if emit:
                self._pass(event)
            return
        if kind is not Kind.CALL and choice.newest >= 0 and delta.tokens:
            touches = {choice.newest}  # tokens after a call may still be that call's
        choice.queue.append(HeldEvent(event, delta, touches, kind is Kind.BLIND, place, place))
        self.held_bytes += len(event.raw)
        if self.held_bytes > self._limit:
            self._overflow(delta.choice, choice)
        self._drain(choice)
        self._bound()

    def _resolve_doubt(self, choice: Choice, touches: set[int], place: Place) -> None:
        """Events in doubt belong to the call before them, to the call that begins now, or to neither; they show tokens
        of texts no further than ``place``. The event before them, if it shows several tokens, may show the first
        ones of the call that begins now."""
        for held in reversed(choice.queue):
            if not held.doubtful:
                if held.delta.tokens > 1:
                    held.touches |= touches
                break
            held.doubtful = False
            held.touches |= touches
            held.place = place or held.place

    def _take_pieces(self, delta: ChoiceDelta, choice: Choice) -> bool:
        for tool in delta.tools:
            call = choice.calls.get(tool.index)
            if call is None:
                if tool.index < choice.newest:
                    return False
                self._complete(delta.choice, choice, complete=True)
                call = choice.calls[tool.index] = HeldCall(tool.index, tool.id, tool.name or "", [])
                choice.newest = tool.index
            else:
                if call.overflowed:
                    continue
                if call.complete:
                    return False
                call.name, call.id = call.name or tool.name or "", call.id or tool.id
                if (tool.name and tool.name != call.name) or (tool.id and tool.id != call.id):
                    call.renamed = True  # one reader joins the pieces, another takes the last: no name to judge
            if tool.arguments:
                call.pieces.append(tool.arguments)
            if tool.done:
                self._ask(delta.choice, choice, call, complete=True)
        return True

    def _complete(self, number: int, choice: Choice, *, complete: bool) -> None:
        call = choice.calls.get(choice.newest)
        if call is not None and not call.complete:
            self._ask(number, choice, call, complete=complete)

    def _ask(
        self, number: int, choice: Choice, call: HeldCall, *, complete: bool, problem: Problem | None = None
    ) -> None:
        call.complete = True
        ticket = self._next_ticket
        self._next_ticket += 1
        self._tickets[ticket] = (number, choice, call)
        whole = ToolCall(number, call.index, call.id, call.name, "".join(call.pieces), complete)
        self._questions.append(Question(ticket, whole, problem or ("renamed" if call.renamed else None)))

    def _ask_texts(self, number: int, choice: Choice, found: list[Found]) -> None:
        for one in found:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._tickets[ticket] = (number, choice, None)
            assert choice.texts is not None
            choice.texts.open.add(ticket)
            self._questions.append(TextQuestion(ticket, number, one))

    def _overflow(self, number: int, choice: Choice) -> None:
        """Too much is held: the open call of this choice is unfit, and nothing more may come of it. Text that waits
        for its end cannot be judged any more."""
        call = choice.calls.get(choice.newest)
        if choice.texts is not None and choice.texts.stuck:
            self.cut(_TOO_LONG)
        elif call is not None and not call.complete:
            call.overflowed = True
            self._ask(number, choice, call, complete=False, problem="held_bytes")

    def _bound(self) -> None:
        """Too much is held, and there is no verdict that would let it go: open calls are unfit, whosever events came
        last; without any, nothing but more events could say what is held."""
        if self.held_bytes <= self._limit or self._tickets or self.over:
            return
        for number, choice in self._choices.items():
            self._overflow(number, choice)
            if self._tickets or self.over:
                return
        self.cut(_TOO_LONG)

    # -- release -----------------------------------------------------------------------------------

    def _drain(self, choice: Choice) -> None:
        queue, texts = choice.queue, choice.texts
        while queue and not queue[0].doubtful and self._judged(choice, queue[0].touches):
            if texts is not None:
                if not texts.may_go(queue[0].place):
                    break
                if self._watch and queue[0].delta.tokens and not _next_may_go(texts, queue):
                    break
                texts.gave(queue[0].place)
            held = queue.popleft()
            self.held_bytes -= len(held.event.raw)
            self._give(choice, held)
        if not queue:
            if choice.state is State.DRAIN:
                choice.state = State.ENDED
            elif choice.state is State.HOLD and not self._open(choice):
                choice.state = State.FLOW
        if self._tail and not any(c.queue for c in self._choices.values()):
            for event in self._tail:
                self._pass(event)
            self._tail.clear()
            self.held_bytes = 0

    def _judged(self, choice: Choice, touches: Iterable[int]) -> bool:
        return not self._hold or all(choice.calls[index].answer is not None for index in touches)

    @staticmethod
    def _open(choice: Choice) -> bool:
        return any(call.answer is None for call in choice.calls.values())

    def _give(self, choice: Choice, held: HeldEvent) -> None:
        delta, event = held.delta, held.event
        if delta.text and not choice.said:
            choice.said = not delta.text.isspace()
        became = leaving(choice, held, self._closing)
        if choice.texts is not None:
            choice.texts.gave_text(held.said, tokens=delta.tokens > 0)
        if became.change is None:
            self._pass(event)
        elif (changed := self._writer.change(event, became.change)) is not None:
            self._out.append(changed)
        for text in became.refusals:
            self._say(choice, event, delta.choice, text)
        if became.ending is not None:
            self._out.append(self._writer.finish(event, delta.choice, became.ending))

    def _say(self, choice: Choice, template: Event, number: int, text: str) -> None:
        if choice.said:
            text = "\n\n" + text
        choice.said = True
        self._out.append(self._writer.text(template, number, text))


def _next_may_go(texts: TextWatch, queue: Iterable[HeldEvent]) -> bool:
    """Whether it is known what is masked of the text after the first event, whose tokens show how that might begin."""
    places = (one.place for one in islice(queue, 1, 1 + LOOK_AHEAD))
    return texts.may_go(next(filter(None, places), ()))
