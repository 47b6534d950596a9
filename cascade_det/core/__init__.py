"""Types, geometry, suppression, pixels, registries and the recipe: what every other part stands on."""
