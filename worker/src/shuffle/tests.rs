//! Segments on their way: from made-up map outputs, over loopback and over TLS, with damage everywhere.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shardmill_datasets::index;
use shardmill_datasets::run::{Layout, RunWriter};
use shardmill_protocol::process::read_message;
use shardmill_protocol::rpc::api::DiskProof;
use shardmill_protocol::rpc::secret::Secret;
use shardmill_protocol::rpc::shuffle::{ANSWER_BYTES, Refusal, decode_answer};
use shardmill_protocol::rpc::tls::Identity;
use shardmill_protocol::{AttemptId, Epoch, JobId};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::fetch::Trouble;
use super::super::serve::{CONNECTIONS, Server, Shelf};
use super::*;
use crate::disk::Disk;

const PARTITIONS: u32 = 100;

/// A worker that has map outputs and serves them.
struct Mapper {
    _directory: TempDir,
    disk: Arc<Disk>,
    shelf: Arc<Shelf>,
    capability: Secret,
    holder: Arc<Holder>,
}

impl Mapper {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(&directory.path().join("mapper"), None).unwrap().with_memory(1 << 20));
        let (shelf, capability) = (Arc::new(Shelf::default()), Secret::random().unwrap());
        shelf.open(JobId(7), capability);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Identity::generate().unwrap().acceptor().unwrap();
        tokio::spawn(Server { disk: Arc::clone(&disk), shelf: Arc::clone(&shelf), tls }.run(listener));
        let holder = Arc::new(holder(&disk, address, Digest::default()));
        Self { _directory: directory, disk, shelf, capability, holder }
    }

    /// Makes a map output of some records in each partition but for every third one, and puts it up.
    fn map(&self, number: u64, records: usize) -> MapOutput {
        let attempt = AttemptId { job: JobId(7), epoch: Epoch(1), number };
        let directory = self.disk.create_attempt(attempt).unwrap();
        let layout = Layout { sequenced: false, digested: true };
        let mut writer = RunWriter::create(&directory.join(MAP_RUN), layout, 64).unwrap();
        for partition in 0..PARTITIONS {
            for record in 0..if partition % 3 == 0 { 0 } else { records } {
                writer.push(format!("key {record}").as_bytes(), 0, format!("value of {number} in {partition}").as_bytes()).unwrap();
            }
            writer.end_segment().unwrap();
        }
        let run = writer.end_run().unwrap();
        fs::write(directory.join(MAP_INDEX), index::encode(run.segments())).unwrap();
        let shards = number as u32..number as u32 + 1;
        let output = MapOutput { shards, attempt, index: Digest(index::digest(run.segments())) };
        self.shelf.put(output.clone());
        output
    }
}

/// Brings an output into memory, as if it had been written there.
#[cfg(target_os = "linux")]
fn into_memory(disk: &Disk, output: &MapOutput) {
    let run = disk.attempt_directory(output.attempt).join(MAP_RUN);
    let file = disk.memory().offer(output.attempt, (1, 1)).unwrap();
    fs::copy(&run, &file.path).unwrap();
    fs::remove_file(&run).unwrap();
    disk.memory().settle(output.attempt, &run).unwrap();
}

fn holder(disk: &Disk, address: SocketAddr, fingerprint: Digest) -> Holder {
    Holder { worker: disk.id(), address: address.to_string(), fingerprint, disk: disk.proof() }
}

/// A reduce attempt.
struct Reducer {
    directory: TempDir,
    wish: Wish,
    kept: Kept,
    trouble: UnboundedReceiver<Trouble>,
    sight: Sight,
}

impl Reducer {
    fn new(mapper: &Mapper, partitions: Range<u32>) -> Self {
        let (sender, trouble) = unbounded_channel();
        let wish = Wish { capability: mapper.capability, partitions, trouble: sender };
        let sight = Sight { me: WorkerId(1), fetch_always: true };
        Self { directory: tempfile::tempdir().unwrap(), wish, kept: Kept::default(), trouble, sight }
    }

    async fn gather(&self, outputs: Vec<(MapOutput, Arc<Holder>)>) -> Result<Vec<SourceEntry>, Fault> {
        let list = List { digest: Digest::default(), outputs };
        let attempt = self.directory.path().join(format!("attempt-{}", fs::read_dir(self.directory.path()).unwrap().count()));
        fs::create_dir(&attempt).unwrap();
        let path = gather(&Fetcher::new(Duration::ZERO), &self.kept, self.sight, &self.wish, &list, &attempt).await?;
        let mut file = io::BufReader::new(File::open(path).unwrap());
        Ok(list.outputs.iter().map(|_| read_message(&mut file).unwrap()).collect())
    }

    fn told(&mut self) -> Vec<bool> {
        std::iter::from_fn(|| self.trouble.try_recv().ok()).map(|trouble| trouble.damaged).collect()
    }
}

/// The bytes of an entry's segments.
fn bytes_of(entry: &SourceEntry) -> Vec<u8> {
    let data = fs::read(&entry.data).unwrap();
    entry.segments.iter().flat_map(|place| data[place.offset as usize..][..place.stored_bytes as usize].to_vec()).collect()
}

fn segments_of(entry: &SourceEntry) -> Vec<(u64, u64, [u8; 16])> {
    entry.segments.iter().map(|place| (place.records, place.content_bytes, place.digest)).collect()
}

#[tokio::test]
async fn what_is_fetched_is_what_is_read_in_place() {
    let mapper = Mapper::new().await;
    let outputs: Vec<_> = (1..=9).map(|number| (mapper.map(number, number as usize * 7), Arc::clone(&mapper.holder))).collect();
    for partitions in [0..PARTITIONS, 0..1, 60..70, 99..100] {
        let mut reducer = Reducer::new(&mapper, partitions);
        let fetched = reducer.gather(outputs.clone()).await.unwrap();
        assert!(fetched.iter().all(|entry| entry.data.starts_with(reducer.directory.path())));
        let mut in_place = Reducer::new(&mapper, reducer.wish.partitions.clone());
        in_place.sight.fetch_always = false;
        let in_place = in_place.gather(outputs.clone()).await.unwrap();
        assert!(in_place.iter().all(|entry| entry.data.starts_with(&mapper.holder.disk.directory)));
        for (fetched, in_place) in fetched.iter().zip(&in_place) {
            assert_eq!(fetched.output, in_place.output);
            assert_eq!(segments_of(fetched), segments_of(in_place));
            assert_eq!(bytes_of(fetched), bytes_of(in_place));
        }
        assert!(reducer.told().is_empty());
    }
}

#[tokio::test]
async fn a_flipped_byte_of_an_output_is_noticed_fetched_again_and_then_held_against_its_holder() {
    flip_bytes_of(MAP_RUN).await;
}

#[tokio::test]
async fn a_flipped_byte_of_an_index_is_noticed_fetched_again_and_then_held_against_its_holder_if_it_says_otherwise() {
    flip_bytes_of(MAP_INDEX).await;
}

/// Flips every seventh byte: of what is there for each partition, each byte is flipped for some of them.
async fn flip_bytes_of(name: &str) {
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 1);
    let unharmed = Reducer::new(&mapper, 0..PARTITIONS);
    let good = unharmed.gather(vec![(output.clone(), Arc::clone(&mapper.holder))]).await.unwrap();
    let path = mapper.disk.attempt_directory(output.attempt).join(name);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        let mut reducer = Reducer::new(&mapper, 0..PARTITIONS);
        match reducer.gather(vec![(output.clone(), Arc::clone(&mapper.holder))]).await {
            Err(Fault::ServedBadData { worker, output: named }) => {
                assert_eq!((worker, named), (mapper.disk.id(), output.attempt));
                assert_eq!(reducer.told(), [true], "{name} at {at}");
            }
            // The holder notices by itself that its index is none: such an output cannot be fetched.
            Err(Fault::FetchFailed { .. }) => assert_eq!((name, reducer.told()), (MAP_INDEX, vec![false; 3]), "at {at}"),
            // A place that was flipped in an empty segment is of no consequence.
            Ok(entries) => {
                assert_eq!(name, MAP_INDEX, "at {at}");
                assert_eq!((segments_of(&entries[0]), bytes_of(&entries[0])), (segments_of(&good[0]), bytes_of(&good[0])));
            }
            other => panic!("{name} at {at}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_output_that_is_gone_or_damaged_is_lost_if_it_is_ones_own_and_what_is_gone_elsewhere_cannot_be_fetched() {
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 5);
    let mut own = Reducer::new(&mapper, 0..10);
    own.sight.me = mapper.disk.id();
    let lost = |damaged| Fault::OutputLost { output: output.attempt, damaged };
    fs::write(mapper.disk.attempt_directory(output.attempt).join(MAP_RUN), b"cut").unwrap();
    assert_eq!(own.gather(vec![(output.clone(), Arc::clone(&mapper.holder))]).await.unwrap_err(), lost(true));
    fs::remove_dir_all(mapper.disk.attempt_directory(output.attempt)).unwrap();
    let outputs = vec![(output.clone(), Arc::clone(&mapper.holder))];
    let mut reducer = Reducer::new(&mapper, 0..10);
    let Err(Fault::FetchFailed { cause, .. }) = reducer.gather(outputs.clone()).await else { panic!() };
    assert_eq!((cause.as_str(), reducer.told()), ("the output is not there", vec![false; 3]));
    let mut own = Reducer::new(&mapper, 0..10);
    own.sight.me = mapper.disk.id();
    assert_eq!(own.gather(outputs).await.unwrap_err(), lost(false));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_output_in_memory_is_read_in_place_and_fetched_as_one_on_disk_and_never_taken_for_another() {
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 5);
    let outputs = vec![(output.clone(), Arc::clone(&mapper.holder))];
    let mut others = Reducer::new(&mapper, 0..PARTITIONS);
    let fetched = others.gather(outputs.clone()).await.unwrap();
    into_memory(&mapper.disk, &output);
    assert_eq!(bytes_of(&others.gather(outputs.clone()).await.unwrap()[0]), bytes_of(&fetched[0]));
    others.sight.fetch_always = false;
    let in_place = others.gather(outputs.clone()).await.unwrap();
    assert!(in_place[0].data.is_symlink());
    assert_eq!(bytes_of(&in_place[0]), bytes_of(&fetched[0]));
    // Where it was, another output is now, of which as much could be read.
    let another = mapper.map(2, 50);
    mapper.disk.memory().remove(output.attempt);
    into_memory(&mapper.disk, &another);
    fs::remove_file(&in_place[0].data).unwrap();
    let link = fs::read_link(mapper.disk.attempt_directory(another.attempt).join(MAP_RUN)).unwrap();
    std::os::unix::fs::symlink(link, &in_place[0].data).unwrap();
    let Err(Fault::FetchFailed { cause, .. }) = others.gather(outputs.clone()).await else { panic!() };
    assert_eq!(cause, "the output is not there");
    others.sight.me = mapper.disk.id();
    assert_eq!(others.gather(outputs).await.unwrap_err(), Fault::OutputLost { output: output.attempt, damaged: false });
}

#[tokio::test]
async fn what_an_attempt_has_fetched_before_it_failed_is_not_fetched_again() {
    let mapper = Mapper::new().await;
    // Nine outputs go over three lanes; the last one of the first lane is not there.
    let outputs: Vec<_> = (1..=9).map(|number| (mapper.map(number, 5), Arc::clone(&mapper.holder))).collect();
    let reducer = Reducer::new(&mapper, 0..PARTITIONS);
    let gone = outputs[2].0.attempt;
    let directory = mapper.disk.attempt_directory(gone);
    fs::rename(&directory, directory.with_extension("away")).unwrap();
    assert!(matches!(reducer.gather(outputs.clone()).await, Err(Fault::FetchFailed { output, .. }) if output == gone));
    // Now it is, and those before it are not.
    fs::rename(directory.with_extension("away"), &directory).unwrap();
    for (output, _) in &outputs[..2] {
        fs::remove_dir_all(mapper.disk.attempt_directory(output.attempt)).unwrap();
    }
    let entries = reducer.gather(outputs.clone()).await.unwrap();
    assert_eq!(entries[0].data, entries[1].data);
    assert!(entries[0].data.exists() && entries[0].data != entries[2].data);
    let mut other = Reducer::new(&mapper, 0..10);
    std::mem::swap(&mut other.kept, &mut { reducer }.kept);
    assert!(other.gather(outputs).await.is_err(), "those were other partitions");
}

#[tokio::test]
async fn nothing_is_served_without_the_capability_of_the_job() {
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 5);
    let mut reducer = Reducer::new(&mapper, 0..10);
    reducer.wish.capability = Secret::random().unwrap();
    let Err(Fault::FetchFailed { cause, .. }) = reducer.gather(vec![(output, Arc::clone(&mapper.holder))]).await else { panic!() };
    assert_eq!(cause, "the capability is not that of the job");
}

#[tokio::test]
async fn a_holder_that_cannot_be_reached_is_named() {
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 5);
    // A port on which nobody listens any more.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let holder = Arc::new(holder(&mapper.disk, address, Digest::default()));
    let mut reducer = Reducer::new(&mapper, 0..10);
    let Err(Fault::FetchFailed { worker, output: named, .. }) = reducer.gather(vec![(output.clone(), holder)]).await else { panic!() };
    assert_eq!((worker, named, reducer.told()), (mapper.disk.id(), output.attempt, vec![false; 3]));
}

#[tokio::test]
async fn a_holder_with_too_many_connections_is_asked_again_and_that_is_no_trouble() {
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 5);
    let mut reducer = Reducer::new(&mapper, 0..10);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(TcpStream::connect(&mapper.holder.address).await.unwrap());
    }
    let all_are_taken = async {
        let mut answer = [0; ANSWER_BYTES];
        TcpStream::connect(&mapper.holder.address).await.unwrap().read_exact(&mut answer).await.unwrap();
        assert_eq!(decode_answer(&answer), Err(Refusal::Busy));
    };
    all_are_taken.await;
    let release = async {
        // The fetcher tries meanwhile, more often than it may fail.
        for _ in 0..50 {
            tokio::task::yield_now().await;
            let _ = TcpStream::connect(&mapper.holder.address).await.unwrap().read_exact(&mut [0; ANSWER_BYTES]).await;
        }
        drop(held);
    };
    let (gathered, ()) = tokio::join!(reducer.gather(vec![(output, Arc::clone(&mapper.holder))]), release);
    assert_eq!((gathered.unwrap().len(), reducer.told()), (1, vec![]));
}

#[tokio::test]
async fn elsewhere_than_on_loopback_only_the_right_certificate_is_spoken_to() {
    let Some(address) = own_address() else { return };
    let mapper = Mapper::new().await;
    let output = mapper.map(1, 50);
    let identity = Identity::generate().unwrap();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server { disk: Arc::clone(&mapper.disk), shelf: Arc::clone(&mapper.shelf), tls: identity.acceptor().unwrap() };
    tokio::spawn(server.run(listener));
    let gather = async |fingerprint| {
        let holder = Arc::new(holder(&mapper.disk, address, fingerprint));
        Reducer::new(&mapper, 0..PARTITIONS).gather(vec![(output.clone(), holder)]).await.map(|entries| segments_of(&entries[0]).len())
    };
    assert_eq!(gather(identity.fingerprint()).await.unwrap(), PARTITIONS as usize);
    let Err(Fault::FetchFailed { .. }) = gather(Digest::of(b"another one")).await else { panic!("a stranger is believed") };
}

/// An address of this machine that others could reach; a machine without one cannot run the test.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only asks which way it would go.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

#[test]
fn a_list_must_have_its_digest_and_not_change_between_its_pages() {
    let output = |number: u32| MapOutput {
        shards: number..number + 1,
        attempt: AttemptId { job: JobId(7), epoch: Epoch(1), number: number.into() },
        index: Digest::of(&number.to_le_bytes()),
    };
    let outputs: Vec<_> = (0..3).map(output).collect();
    let list = list_digest(outputs.iter().map(|output| (&output.shards, &output.index)));
    let proof = DiskProof { directory: "/nowhere".into(), nonce: [0; 16] };
    let holder = Holder { worker: WorkerId(1), address: "localhost:1".to_owned(), fingerprint: Digest::default(), disk: proof };
    let page = |outputs: &[MapOutput], list| SourcesPage {
        list,
        outputs: outputs.iter().map(|output| (output.clone(), 0)).collect(),
        holders: vec![holder.clone()],
        more: false,
    };
    let mut pages = Pages::default();
    pages.push(page(&outputs[..2], list)).unwrap();
    pages.push(page(&outputs[2..], list)).unwrap();
    assert_eq!(pages.end().unwrap().digest, list);
    let mut pages = Pages::default();
    pages.push(page(&outputs[..2], list)).unwrap();
    assert_eq!(pages.push(page(&outputs[2..], Digest::default())), Err(ListError::Changed));
    assert_eq!(pages.end().unwrap_err(), ListError::Damaged);
    let nobodys = SourcesPage { holders: vec![], ..page(&outputs, list) };
    assert_eq!(Pages::default().push(nobodys), Err(ListError::Damaged));
}
