//! An embedded Control-M session server.
