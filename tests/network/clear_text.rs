//! What crosses between machines can be read by nobody but them.

use shardmill_protocol::rpc::api::Role;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_tests::cluster::{capability_of, counts, naive};
use shardmill_tests::{Output, Place, Random};

use crate::capture::Capture;
use crate::machines::Network;
use crate::site::{Shared, Site};

/// Words of some 50 bytes each, of which half the bytes are in no other word.
const WORDS: usize = 60_000;
/// What must have gone each way at least, for the absence of records to mean anything: hundreds of them.
const LEAST_BYTES: usize = 32 << 10;

#[test]
fn neither_a_record_nor_a_secret_crosses_between_machines_in_clear() {
    let place = Place::new();
    let Some(network) = Network::make(&place) else { return };
    let [_, second, third] = &network.machines;
    let capture = Capture::begin(&network);
    let site = Site::start(&place, &network);
    let _workers = [site.worker(second, &[]), site.worker(third, &[])];
    let marker = Secret::random().unwrap().expose_hex()[..24].to_owned();
    let mut random = Random::new(11);
    let words: Vec<String> = (0..WORDS).map(|_| format!("{marker}{:016x}{:08x}", random.next(), random.next() as u32)).collect();
    let (shared, text) = Shared::among(&place, &words);
    let job = site.submit(third, &text);
    let mut capability = None;
    let join = site.join(Role::Worker);
    shared.pass(|| capability = Some(second.inside(|| capability_of(&join, job))));
    site.succeeds(third, job);
    let workers = site.workers(third);
    let heard = capture.end(second, third);

    // The job has worked on these records, and they have gone both ways.
    assert_eq!(counts(&Output::whole(&place.path("out/words"))), naive(&text));
    for address in workers.values() {
        let to = if *address.ip() == second.address { third } else { second };
        let bytes = heard.bytes(*address, to.address);
        assert!(bytes > LEAST_BYTES, "{bytes} bytes went from {address} to {}", to.address);
    }

    assert!(!heard.holds(marker.as_bytes()), "a record was sent in clear");
    let secrets = Role::ALL.map(|role| (role.to_string(), site.join(role).secret));
    for (name, secret) in secrets.into_iter().chain([("capability".to_owned(), capability.unwrap())]) {
        assert!(!heard.holds(secret.expose()), "the secret of {name} was sent in clear");
        assert!(!heard.holds(secret.expose_hex().as_bytes()), "the secret of {name} was sent in clear, as text");
    }
}
