"""Reads mesh files, one format each: from bytes to parts, without a library between the file and the check."""
