"""Facts: triples and their files, encoders, and the knowledge base that stores both."""
