"""`interlock demo`: scripted agents played through a whole Interlock, told as a story on the terminal.

How to think about it. The agents and the model server are scripted; everything between them is the product as it
is shipped, with no settings. ``stage`` starts and ends all parts, with a ``wiretap`` between Interlock and the
model server; ``agent`` sends the requests over HTTP and keeps what came; ``ledger`` reads the record; ``story``
holds the scenes. What a scene claims it computes from these three (bytes sent, bytes received, record), and a
claim that does not hold is printed as such and fails the command. ``narrator`` only prints.
"""

from proxy.demo.command import add_demo_command

__all__ = ["add_demo_command"]
