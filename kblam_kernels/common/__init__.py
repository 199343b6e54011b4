"""Shared by every op: a call as an object, dispatch, checks, softmax, how columns are cut, launches, the build."""
