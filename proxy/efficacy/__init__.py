"""`interlock bench efficacy FILE`: what the policies catch, and what they stop that they should not.

A file of calls or texts, each marked as wanted by an attacker or not, is judged as live traffic is: each line becomes a
request, goes through the reader of requests, the facts and the policies, and what they decide is counted. Nothing here
learns from the file.
"""

from proxy.efficacy.command import add_bench_commands

__all__ = ["add_bench_commands"]
