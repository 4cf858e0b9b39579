"""Shared parts of graph jobs and policy runs; knows neither domain."""
