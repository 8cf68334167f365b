//! Names and numbers of the Model Context Protocol.
