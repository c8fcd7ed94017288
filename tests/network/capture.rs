//! What crosses the switch, as whoever sits there hears it.
//!
//! The payload of frames is put together to one stream for each direction of each connection, so that what two frames share is found,
//! too. Within one kernel nothing is lost or overtaken on the way, so frames come in the order of their content.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

use shardmill_protocol::rpc::secret::Secret;
use shardmill_tests::contains;

use crate::machines::{Machine, Network};

/// What may lie in the kernel unheard. More would be dropped, which is noticed.
const BUFFER_BYTES: libc::c_int = 256 << 20;
/// A segment that is still to be cut by the hardware, which there is none of, may have 64 KiB.
const FRAME_BYTES: usize = 128 << 10;
/// Heartbeats come several times in a second: after such a silence nothing will be heard any more.
const SILENCE: libc::timeval = libc::timeval { tv_sec: 60, tv_usec: 0 };

/// A capture that goes on.
pub(crate) struct Capture {
    thread: JoinHandle<Heard>,
    last_words: String,
}

/// All that was heard.
#[derive(Default)]
pub(crate) struct Heard {
    /// By where it came from and where it went.
    streams: BTreeMap<(SocketAddrV4, SocketAddrV4), Vec<u8>>,
    /// Frames that carry no TCP, as they are.
    others: Vec<u8>,
}

impl Capture {
    /// Hears all that crosses the switch from now on.
    pub(crate) fn begin(network: &Network) -> Self {
        let socket = network.at_switch(listen).unwrap();
        let last_words = Secret::random().unwrap().expose_hex();
        let awaited = last_words.clone();
        Self { thread: thread::spawn(move || hear(&socket, awaited.as_bytes())), last_words }
    }

    /// Ends with words that go in clear from one machine to another. That they are heard shows that all before was, and that whatever
    /// is in clear would be found.
    pub(crate) fn end(self, from: &Machine, to: &Machine) -> Heard {
        let listener = to.inside(|| TcpListener::bind((to.address, 0))).unwrap();
        let mut stream = from.inside(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
        // In two pieces, which are two frames.
        stream.set_nodelay(true).unwrap();
        let (beginning, end) = self.last_words.as_bytes().split_at(20);
        stream.write_all(beginning).unwrap();
        stream.write_all(end).unwrap();
        let heard = self.thread.join().unwrap_or_else(|panicked| resume_unwind(panicked));
        assert!(heard.holds(self.last_words.as_bytes()));
        heard
    }
}

impl Heard {
    /// Whether something was said in clear.
    pub(crate) fn holds(&self, text: &[u8]) -> bool {
        self.streams.values().chain([&self.others]).any(|stream| contains(stream, text))
    }

    /// How many bytes were sent from one address and port to a machine.
    pub(crate) fn bytes(&self, from: SocketAddrV4, to: Ipv4Addr) -> usize {
        let sent = self.streams.iter().filter(|((source, target), _)| *source == from && *target.ip() == to);
        sent.map(|(_, stream)| stream.len()).sum()
    }

    fn take(&mut self, frame: &[u8]) -> &[u8] {
        match segment(frame) {
            Some((from, to, payload)) => {
                let stream = self.streams.entry((from, to)).or_default();
                stream.extend_from_slice(payload);
                stream
            }
            None => {
                self.others.extend_from_slice(frame);
                &mut self.others
            }
        }
    }
}

/// The connection's ends and the payload of a TCP segment in an IPv4 packet in an Ethernet frame.
fn segment(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    const IPV4: [u8; 2] = [0x08, 0x00];
    const TCP: u8 = 6;
    let number = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let packet = frame.get(14..).filter(|_| frame[12..14] == IPV4)?;
    // What follows behind the packet's length pads the frame.
    let packet = packet.get(..usize::from(number(packet, 2)?))?;
    let segment = packet.get(usize::from(packet[0] & 0xf) * 4..).filter(|_| packet[9] == TCP)?;
    let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
    let end = |address: usize, port: usize| {
        let address: [u8; 4] = packet[address..address + 4].try_into().expect("four bytes");
        Some(SocketAddrV4::new(address.into(), number(segment, port)?))
    };
    Some((end(12, 0)?, end(16, 2)?, payload))
}

/// A socket that hears all interfaces of the namespace it is made in.
fn listen() -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a system call on numbers; the descriptor is nobody else's.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    set(&socket, libc::SO_RCVBUFFORCE, &BUFFER_BYTES)?;
    set(&socket, libc::SO_RCVTIMEO, &SILENCE)?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is there and has the length that is told.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const *value).cast(), size_of::<T>() as libc::socklen_t)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Hears until somebody says these words.
fn hear(socket: &OwnedFd, last_words: &[u8]) -> Heard {
    let mut heard = Heard::default();
    let mut frame = vec![0; FRAME_BYTES];
    loop {
        let (bytes, leaves) = receive(socket, &mut frame).expect("something is heard");
        // Every frame is heard where it comes in, and again where it goes out.
        if leaves {
            continue;
        }
        let stream = heard.take(&frame[..bytes]);
        let latest = stream.len().saturating_sub(bytes + last_words.len());
        if contains(&stream[latest..], last_words) {
            assert_eq!(dropped(socket), 0, "frames were not heard");
            return heard;
        }
    }
}

/// The length of the next frame, and whether it leaves the switch.
fn receive(socket: &OwnedFd, frame: &mut [u8]) -> io::Result<(usize, bool)> {
    // SAFETY: all zeros are a valid address, and both buffers have the lengths that are told.
    let (bytes, address) = unsafe {
        let mut address: libc::sockaddr_ll = mem::zeroed();
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let (start, end) = (frame.as_mut_ptr().cast(), frame.len());
        (libc::recvfrom(socket.as_raw_fd(), start, end, libc::MSG_TRUNC, (&raw mut address).cast(), &mut length), address)
    };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    assert!(bytes <= frame.len(), "a frame of {bytes} bytes");
    Ok((bytes, address.sll_pkttype == libc::PACKET_OUTGOING))
}

/// How many frames there was no room for.
fn dropped(socket: &OwnedFd) -> u32 {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let (descriptor, values) = (socket.as_raw_fd(), (&raw mut statistics).cast());
    // SAFETY: the kernel writes two numbers, for which there is room.
    let got = unsafe { libc::getsockopt(descriptor, libc::SOL_PACKET, libc::PACKET_STATISTICS, values, &mut length) };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    statistics.tp_drops
}
