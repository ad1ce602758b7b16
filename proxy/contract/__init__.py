"""`interlock contract`: one request matrix, sent to a model server directly and through a proxy, answers compared.

How to think about it. A *case* (``cases/*.json``, read by :mod:`proxy.contract.cases`) is one request in words; the
*client* sends it over a plain socket and keeps every byte of the *answer*, with when it came; *compare* is a pure
function from two answers to their differences, after *masking* what a server makes anew each time; the *matrix* asks
in pairs, and again where a server may not repeat itself; the *report* is a table or JSON. Nothing here knows
Interlock: any OpenAI-compatible proxy can be asked.
"""

from proxy.contract.command import add_contract_command

__all__ = ["add_contract_command"]
