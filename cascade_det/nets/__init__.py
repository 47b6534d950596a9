"""Networks that turn a window into one feature vector: the trunks that stages put their heads on."""
