"""The page of `edgeage demo`: face aging in the browser, and the local server that brings it there."""
