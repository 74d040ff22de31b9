"""A web page and an HTTP interface for one model: pictures in, boxes out."""
