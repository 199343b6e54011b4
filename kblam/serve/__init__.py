"""`kblam serve`: one model with knowledge bases by name, behind OpenAI's API. docs/serving.md is the guide."""
