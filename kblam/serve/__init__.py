"""`kblam serve`: one model with knowledge bases by name, behind OpenAI's API. docs/serving.md is the guide."""

DEFAULT_TOKENS = 256  # of an answer from a base whose length nobody limits, on the command line too
SEND_SECONDS = 60  # in which a client takes something of a response that waits for it; as nginx has it
