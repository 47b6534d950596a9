"""Sources that read annotated pictures in the formats of published data sets, one module a format."""
