"""The benchmark: what Interlock costs, beside what carrying the same bytes costs without looking at them.

``python -m bench`` starts everything that it measures, in one run on one machine: an upstream faster than any
proxy, the references (nothing between, a bare aiohttp pass-through, nginx) and Interlock with its starter
policies, tracing to a collector and the journal on disk. It has no thresholds: it prints what it saw.

* ``wire``: the requests and answers that are sent, as bytes; pure
* ``upstream``, ``passthrough``, ``sink``, ``load``: one small process each
* ``targets``: what is measured, and how each is started and proved to be ours
* ``proc``: CPU time and memory of a tree of processes
* ``measure``: rounds of cells, one after the other
* ``report``: the table
"""
