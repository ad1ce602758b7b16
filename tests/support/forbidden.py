"""Tool calls of which one is forbidden, and the places where it may stand among the others."""

from tests.support.chat import Call

CANARY = "canary-7f3a91"
BAD = Call("run_shell", f'{{"command": "rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city": "Oslo ☂"}')
ALSO = Call("run_shell", '{"command": "pytest -q"}')
PLACES = {
    "first": (BAD, GOOD, ALSO),
    "middle": (GOOD, BAD, ALSO),
    "last": (GOOD, ALSO, BAD),
    "alone": (BAD,),
}
