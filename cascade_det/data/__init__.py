"""Pictures and truth: sources, formats, the synthetic source, shards of crops and the loader."""
