//! Machines on a network of their own.
//!
//! ```text
//! switch, a bridge ─┬─ 192.0.2.1
//!                   ├─ 192.0.2.2
//!                   └─ 192.0.2.3
//! ```
//! A machine is a namespace of the network and one of mounts, in which the directory `own` of the test's place is a disk that no
//! other machine sees. Namespaces have no names: they live as long as a descriptor or a process holds them, and their links and mounts
//! go with them. So nothing has to be removed, and nothing is left behind, however a test ends.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::null;
use std::{env, fs, panic, thread};

use shardmill_tests::Place;

/// Three machines and what joins them.
pub(crate) struct Network {
    pub(crate) machines: [Machine; 3],
    switch: Spaces,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) address: Ipv4Addr,
    own: PathBuf,
    spaces: Spaces,
}

/// A namespace of the network and one of mounts.
struct Spaces {
    network: File,
    mounts: File,
}

impl Network {
    /// Makes three machines that share a place. Where that is not possible the test is skipped, and says so; in a pipeline it fails.
    pub(crate) fn make(place: &Place) -> Option<Self> {
        let cause = match Self::try_make(place) {
            Ok(network) => return Some(network),
            Err(cause) => cause,
        };
        let needed = "machines of their own take root and `ip`, which Debian has in iproute2";
        assert!(env::var_os("CI").is_none_or(|value| value.is_empty()), "{needed}: {cause}");
        // Past the test's own stderr, which nobody is shown of a test that passes.
        io::stderr().write_all(format!("skipped: {needed}: {cause}\n").as_bytes()).unwrap();
        None
    }

    fn try_make(place: &Place) -> io::Result<Self> {
        let own = place.path("own");
        fs::create_dir(&own)?;
        let switch = Spaces::new(|| Ok(()))?;
        switch.ip("link add name switch type bridge\nlink set switch up\n")?;
        let machine = |number: u8| {
            let spaces = Spaces::new(|| mount(c"tmpfs", &own, 0))?;
            let (port, network) = (format!("port{number}"), format!("/proc/{}/fd/{}", std::process::id(), spaces.network.as_raw_fd()));
            let address = Ipv4Addr::new(192, 0, 2, number);
            switch.ip(&format!("link add {port} type veth peer name wire netns {network}\nlink set {port} master switch up\n"))?;
            spaces.ip(&format!("link set lo up\naddress add {address}/24 dev wire\nlink set wire up\n"))?;
            Ok::<_, io::Error>(Machine { address, own: own.clone(), spaces })
        };
        Ok(Self { machines: [machine(1)?, machine(2)?, machine(3)?], switch })
    }

    /// Does something at the switch, through which all goes that goes from one machine to another.
    pub(crate) fn at_switch<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.switch.inside(act)
    }
}

impl Machine {
    /// The path of what is or will be called `name` on the machine's own disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// A command that runs on this machine. It is killed when the thread that has started it ends, however it does.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.spaces.command(program)
    }

    /// Does something on this machine.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.spaces.inside(act)
    }

    /// Lets everything get lost that this machine sends to another one, which still reaches this one: it is sent to a card that nobody has.
    pub(crate) fn lose(&self, other: &Machine) {
        self.spaces.ip(&format!("neighbor replace {} lladdr 02:00:00:00:00:01 dev wire nud permanent\n", other.address)).unwrap();
    }

    /// Ends that.
    pub(crate) fn find(&self, other: &Machine) {
        self.spaces.ip(&format!("neighbor del {} dev wire\n", other.address)).unwrap();
    }

    /// Takes away every way from this machine to another one.
    pub(crate) fn part_from(&self, other: &Machine) {
        self.spaces.ip(&format!("route add unreachable {}/32\n", other.address)).unwrap();
    }

    /// Lets this machine see an empty disk of its own where the others see a directory that they share.
    pub(crate) fn hide(&self, directory: &Path) {
        self.inside(|| mount(c"tmpfs", directory, 0)).unwrap();
    }
}

impl Spaces {
    /// Makes namespaces, and prepares them from inside.
    fn new(prepare: impl FnOnce() -> io::Result<()> + Send) -> io::Result<Self> {
        on_a_thread(|| {
            // SAFETY: a system call on numbers, which changes what this thread sees alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) })?;
            // What is mounted here is not to appear elsewhere.
            mount(c"none", Path::new("/"), libc::MS_REC | libc::MS_PRIVATE)?;
            prepare()?;
            Ok(Self { network: File::open("/proc/thread-self/ns/net")?, mounts: File::open("/proc/thread-self/ns/mnt")? })
        })
    }

    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            enter(self.network.as_raw_fd(), self.mounts.as_raw_fd()).unwrap();
            act()
        })
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let (network, mounts) = (self.network.as_raw_fd(), self.mounts.as_raw_fd());
        let mut command = Command::new(program);
        // SAFETY: system calls on numbers. The descriptors are open, as commands are not kept for longer than machines.
        unsafe {
            command.pre_exec(move || {
                enter(network, mounts)?;
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))
            });
        }
        command
    }

    /// Runs commands of `ip`, one a line.
    fn ip(&self, commands: &str) -> io::Result<()> {
        let mut ip = self.command("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        ip.stdin.take().expect("it is piped").write_all(commands.as_bytes())?;
        let ended = ip.wait_with_output()?;
        if ended.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&ended.stderr).into_owned())) }
    }
}

/// Does something on a thread of its own, whose namespaces are nobody else's concern.
fn on_a_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(act).join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
}

/// Moves the calling thread into namespaces.
fn enter(network: RawFd, mounts: RawFd) -> io::Result<()> {
    // SAFETY: system calls on numbers, which change what this thread sees alone. Threads that share their working directory with
    // others cannot change their mounts, so this one gets one of its own.
    unsafe {
        check(libc::unshare(libc::CLONE_FS))?;
        check(libc::setns(network, libc::CLONE_NEWNET))?;
        check(libc::setns(mounts, libc::CLONE_NEWNS))
    }
}

/// Mounts what needs no device.
fn mount(kind: &CStr, at: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: three strings that end with a zero, and no options.
    check(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, null()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
