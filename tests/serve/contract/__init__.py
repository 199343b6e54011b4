"""What holds on every engine: `test_contract.py` here runs it on transformers, the one in tests/vllm/serve on vLLM.

The fixtures are the engine's: `server` and `changing` have the bases "facts" and "hr", and a test may change one in the
second only; `keyed` has two tenants, acme with the same bases and globex with an empty one; `small` takes small bodies.
"""

from tests.serve.contract.answers import *  # noqa: F403
from tests.serve.contract.changes import *  # noqa: F403
from tests.serve.contract.common import *  # noqa: F403
from tests.serve.contract.counts import *  # noqa: F403
from tests.serve.contract.names import *  # noqa: F403
from tests.serve.contract.refusals import *  # noqa: F403
