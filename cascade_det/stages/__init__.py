"""Stages: what a cascade is made of. A proposer runs densely over a pyramid, a refiner on crops of candidates."""
