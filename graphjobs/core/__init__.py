"""What graph jobs and policy runs have in common; knows neither."""
