"""vLLM as the engine of `kblam serve`: its OpenAI server with keys, tenants, bases by name and knowledge around it.

`gate.py` stands in front of vLLM's own application. What it changes on the way in is in `asking.py`, on the way out in
`telling.py`; `watch.py` is what it sees of an answer in between. None of these needs vLLM; `llm.py` and `start.py` do.
"""
