//! The calls between machines: tarpc over TLS, encoded with postcard.
//!
//! [`api`] has the services and their messages.

pub mod api;
