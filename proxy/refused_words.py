"""What an agent is told where Interlock itself refuses a call or stops an answer, and no policy does."""

from __future__ import annotations

MALFORMED = (
    "Blocked by rule interlock/malformed_arguments. The tool call was not executed. Its arguments are not "
    "exactly one JSON object that every parser reads alike. Send the call again with plain JSON."
)
RENAMED = (
    "Blocked by rule interlock/malformed_call. The tool call was not executed: its name or id changed while it was "
    "made. Make the call again."
)
TOO_LARGE = (
    "Blocked by rule interlock/held_bytes. The tool call was not executed. Its arguments are larger than what "
    "may be held for judging. Split the work into smaller calls."
)
CALL_UNRECORDED = (
    "Blocked by rule interlock/record. The tool call was not executed, because its record could not be "
    "written. Nothing is wrong with the call; it may be tried again later."
)
STOPPED_UNRECORDED = (
    "Blocked by rule interlock/record. The answer was stopped: something in it was to be masked, and the record of "
    "that could not be written. Nothing is wrong with what you asked; it may be tried again later."
)
