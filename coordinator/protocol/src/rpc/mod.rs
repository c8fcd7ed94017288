//! The calls between machines: tarpc over TLS, encoded with postcard.
//!
//! ```text
//! client                                             server
//!   TCP ────────────────────────────────────────────▶ [`serve`]: one task for each connection
//!   TLS, the certificate's fingerprint pinned ([`tls`])
//!   hello: version, secret ─────────────────────────▶ [`handshake`]
//!         ◀───────────────────────────────────────── role, or a refusal
//!   calls ([`api`]) as frames ([`transport`], [`codec`]) ─▶ each checked against [`roles`] and [`limits`]
//! ```
//! [`connect`] is the client's side of it, [`join`] the file that says where to and with which [`secret`]. [`shuffle`] is not RPC:
//! it says how workers fetch map output from one another. [`duration`] is for the flags of both sides.

pub mod api;
pub mod codec;
pub mod connect;
pub mod duration;
pub mod handshake;
pub mod join;
pub mod limits;
pub mod roles;
pub mod secret;
pub mod serve;
pub mod shuffle;
pub mod tls;
pub mod transport;
