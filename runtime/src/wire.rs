//! The framed protocol between a host and a board.
