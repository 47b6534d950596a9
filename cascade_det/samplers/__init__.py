"""Samplers: annotations in, windows to cut out; they never touch pixels."""
