"""Models with knowledge in other people's frameworks: `langchain`, `llama_index`. Each needs its extra."""
