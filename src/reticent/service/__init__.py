"""The service: the Open Inference Protocol V2, server and client."""
