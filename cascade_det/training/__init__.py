"""Training: mine windows, fit a stage on them, calibrate its thresholds, and the pipeline that does so in turn."""
