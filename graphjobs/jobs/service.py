"""The use cases of a web service: request a job, take the completion hook, cancel, tell the lag; knows no HTTP."""
