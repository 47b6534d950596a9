"""The report of an evaluation or a run, one HTML page that needs nothing else, and the comparison of several."""
