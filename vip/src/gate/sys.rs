//! Every `unsafe` line of the crate: `bpf(2)`, one shared mapping, two for packet sockets, one for the watchdog.
//!
//! Why this is sound:
//!
//! - `bpf(2)` reads an attribute block of the size that it is told. Each block here is a `#[repr(C)]`
//!   struct without padding (checked at compile time), passed with its own size. Pointers in a block
//!   come from slices and arrays that are borrowed for the whole call, with their true lengths;
//!   those that the kernel writes through come from `&mut`. No command used here keeps a pointer.
//! - A descriptor that the kernel returned is wrapped into an `OwnedFd` at once, and only there.
//! - The mapping of [`Deadlines`] is private to its struct, at least [`DEADLINES`] times eight bytes
//!   long, page-aligned, and lives until the struct is dropped. It is only touched through
//!   `AtomicU64`, as the kernel and our programs may read it at any moment; all bit patterns are
//!   valid numbers.
//! - `sockaddr_ll` is plain data; it is written into storage that is larger and more aligned.
//! - `WDIOC_SETTIMEOUT` reads and writes one `int` through a pointer to a local one, and keeps it not.
//! - A socket registered with the reactor is owned by the registration, which is never given another.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::asm::Insn;
use super::program::{DEADLINES, Direction};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;

const MAP_TYPE_HASH: u32 = 1;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
/// With no other program named: before all others.
const ATTACH_BEFORE: u32 = 1 << 3;

/// Longest name of a map or program, without the closing zero.
const NAME_BYTES: usize = 15;
/// Room for the verifier's explanation of a refusal.
const LOG_BYTES: usize = 64 * 1024;
/// Most programs that one attachment point can hold (`BPF_MPROG_MAX`).
const MOST_PROGRAMS: usize = 64;

/// What a program is loaded for that goes to no particular place.
pub(crate) const ATTACH_ANYWHERE: u32 = 0;

/// What a program is loaded for that goes to tcx.
pub(crate) fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => ATTACH_TCX_INGRESS,
        Direction::Egress => ATTACH_TCX_EGRESS,
    }
}

fn object_name(name: &str) -> [u8; NAME_BYTES + 1] {
    let mut bytes = [0; NAME_BYTES + 1];
    assert!(name.len() <= NAME_BYTES, "object name {name} is too long for the kernel");
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// Attribute blocks: plain C structs without padding, whose pointers are valid for the call.
///
/// # Safety
/// The type is `#[repr(C)]`, has no padding, and is what the command it is used with expects.
unsafe trait Attributes {}

/// Calls `bpf(2)`; the result is a descriptor for the commands that make one, else zero.
fn bpf<A: Attributes>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the block is valid for reads and writes of its own size, see `Attributes`.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn bpf_fd<A: Attributes>(command: libc::c_long, attributes: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the command returned a new descriptor, which nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES + 1],
}
const _: () = assert!(size_of::<MapCreate>() == 44);
// SAFETY: seven words and sixteen bytes, as `union bpf_attr` begins for BPF_MAP_CREATE.
unsafe impl Attributes for MapCreate {}

/// Makes a hash map that is used as a set: the value of each key is a 1.
pub(crate) fn new_set(name: &str, key_bytes: usize, most: usize) -> io::Result<OwnedFd> {
    bpf_fd(
        MAP_CREATE,
        &mut MapCreate {
            map_type: MAP_TYPE_HASH,
            key_size: key_bytes as u32,
            value_size: size_of::<u32>() as u32,
            max_entries: most.max(1) as u32,
            map_name: object_name(name),
            ..MapCreate::default()
        },
    )
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}
const _: () = assert!(size_of::<MapElement>() == 32);
// SAFETY: as `union bpf_attr` begins for BPF_MAP_*_ELEM.
unsafe impl Attributes for MapElement {}

/// Puts `key` into a set made by [`new_set`] with as many bytes per key.
pub(crate) fn insert<const KEY_BYTES: usize>(set: BorrowedFd<'_>, key: &[u8; KEY_BYTES]) -> io::Result<()> {
    let value = 1u32;
    bpf(
        MAP_UPDATE_ELEM,
        &mut MapElement {
            map_fd: set.as_raw_fd() as u32,
            zero: 0,
            key: key.as_ptr() as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        },
    )
    .map(drop)
}

/// The deadlines, in memory that the kernel's programs read too: moving one is a single store that
/// cannot fail, cannot wait and cannot tear.
#[derive(Debug)]
pub(crate) struct Deadlines {
    map: OwnedFd,
    memory: NonNull<AtomicU64>,
}

// SAFETY: the memory is only accessed through atomics, and belongs to this struct alone.
unsafe impl Send for Deadlines {}
// SAFETY: as above.
unsafe impl Sync for Deadlines {}

const DEADLINES_BYTES: usize = DEADLINES * size_of::<u64>();

impl Deadlines {
    /// Makes the map; all deadlines are zero: shut.
    pub(crate) fn new(name: &str) -> io::Result<Deadlines> {
        let map = bpf_fd(
            MAP_CREATE,
            &mut MapCreate {
                map_type: MAP_TYPE_ARRAY,
                key_size: size_of::<u32>() as u32,
                value_size: DEADLINES_BYTES as u32,
                max_entries: 1,
                map_flags: MAP_MMAPABLE,
                map_name: object_name(name),
                ..MapCreate::default()
            },
        )?;
        // SAFETY: a new shared mapping at an address of the kernel's choice, of a length that the map
        // has (its memory is whole pages); the result is checked.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                DEADLINES_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).expect("the kernel does not map page zero unasked");
        Ok(Deadlines { map, memory })
    }

    /// The map's descriptor.
    pub(crate) fn map_fd(&self) -> i32 {
        self.map.as_raw_fd()
    }

    fn cell(&self, which: usize) -> &AtomicU64 {
        assert!(which < DEADLINES);
        // SAFETY: within the mapping, which lives as long as `self`.
        unsafe { self.memory.add(which).as_ref() }
    }

    /// Moves deadline `which`.
    pub(crate) fn set(&self, which: usize, boottime_ns: u64) {
        self.cell(which).store(boottime_ns, Ordering::SeqCst);
    }

    /// Reads deadline `which`.
    pub(crate) fn get(&self, which: usize) -> u64 {
        self.cell(which).load(Ordering::SeqCst)
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        // SAFETY: the very mapping made in `new`; nothing borrows it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), DEADLINES_BYTES) };
    }
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES + 1],
    prog_ifindex: u32,
    expected_attach_type: u32,
}
const _: () = assert!(size_of::<ProgLoad>() == 72);
// SAFETY: as `union bpf_attr` begins for BPF_PROG_LOAD.
unsafe impl Attributes for ProgLoad {}

/// Loads a program; a refusal carries the end of the verifier's log.
pub(crate) fn load(name: &str, attach_type: u32, insns: &[Insn]) -> io::Result<OwnedFd> {
    // The helpers in use are free to programs of any licence.
    let license = c"Apache-2.0";
    let mut attributes = ProgLoad {
        prog_type: PROG_TYPE_SCHED_CLS,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: object_name(name),
        expected_attach_type: attach_type,
        ..ProgLoad::default()
    };
    let refusal = match bpf_fd(PROG_LOAD, &mut attributes) {
        Ok(program) => return Ok(program),
        Err(refusal) => refusal,
    };
    // Asked again for the reason: logging costs time and memory that a good program need not spend.
    let mut log = vec![0u8; LOG_BYTES];
    attributes.log_level = 1;
    attributes.log_size = LOG_BYTES as u32;
    attributes.log_buf = log.as_mut_ptr() as u64;
    if let Ok(program) = bpf_fd(PROG_LOAD, &mut attributes) {
        return Ok(program);
    }
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let tail: Vec<&str> = text.lines().rev().take(8).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    if tail.is_empty() {
        return Err(refusal);
    }
    Err(io::Error::new(refusal.kind(), format!("{refusal}; the verifier says:\n{}", tail.join("\n"))))
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}
const _: () = assert!(size_of::<Attach>() == 32);
// SAFETY: as `union bpf_attr` begins for BPF_PROG_ATTACH and BPF_PROG_DETACH.
unsafe impl Attributes for Attach {}

/// Attaches before every other program, so that none of them can accept a packet past the gate. The
/// attachment itself holds the program: it outlives this process.
pub(crate) fn attach(index: u32, direction: Direction, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        PROG_ATTACH,
        &mut Attach {
            target_ifindex: index,
            attach_bpf_fd: program.as_raw_fd() as u32,
            attach_type: attach_type(direction),
            attach_flags: ATTACH_BEFORE,
            ..Attach::default()
        },
    )
    .map(drop)
}

/// Takes the program off again.
pub(crate) fn detach(index: u32, direction: Direction, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        PROG_DETACH,
        &mut Attach {
            target_ifindex: index,
            attach_bpf_fd: program.as_raw_fd() as u32,
            attach_type: attach_type(direction),
            ..Attach::default()
        },
    )
    .map(drop)
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    zero: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}
const _: () = assert!(size_of::<Query>() == 64);
// SAFETY: as `union bpf_attr` begins for BPF_PROG_QUERY.
unsafe impl Attributes for Query {}

/// The ids of the programs attached to an interface, in the order in which they run.
pub(crate) fn attached(index: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut query = Query {
        target_ifindex: index,
        attach_type: attach_type(direction),
        prog_ids: ids.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        ..Query::default()
    };
    match bpf(PROG_QUERY, &mut query) {
        Ok(_) => Ok(ids[..(query.count as usize).min(MOST_PROGRAMS)].to_vec()),
        // Nothing was ever attached there; or this kernel has no tcx, and nothing can have been.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Whether this kernel has tcx (6.6 and later), as far as this process may ask.
pub(crate) fn has_tcx() -> bool {
    /// In every namespace.
    const LOOPBACK: u32 = 1;
    let mut query = Query { target_ifindex: LOOPBACK, attach_type: ATTACH_TCX_INGRESS, ..Query::default() };
    !bpf(PROG_QUERY, &mut query).is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL))
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}
const _: () = assert!(size_of::<ById>() == 12);
// SAFETY: as `union bpf_attr` begins for BPF_PROG_GET_FD_BY_ID.
unsafe impl Attributes for ById {}

/// Opens a program by its id (needs CAP_SYS_ADMIN).
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(PROG_GET_FD_BY_ID, &mut ById { id, next_id: 0, open_flags: 0 })
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}
const _: () = assert!(size_of::<InfoByFd>() == 16);
// SAFETY: as `union bpf_attr` begins for BPF_OBJ_GET_INFO_BY_FD.
unsafe impl Attributes for InfoByFd {}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    prog_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; NAME_BYTES + 1],
}
const _: () = assert!(size_of::<ProgInfo>() == 80);

/// A program's id and name.
pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<(u32, String)> {
    let mut info = ProgInfo::default();
    bpf(
        OBJ_GET_INFO_BY_FD,
        &mut InfoByFd {
            bpf_fd: program.as_raw_fd() as u32,
            info_len: size_of::<ProgInfo>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        },
    )?;
    let end = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
    Ok((info.id, String::from_utf8_lossy(&info.name[..end]).into_owned()))
}

#[cfg(test)]
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}
#[cfg(test)]
const _: () = assert!(size_of::<TestRun>() == 40);
// SAFETY: as `union bpf_attr` begins for BPF_PROG_TEST_RUN.
#[cfg(test)]
unsafe impl Attributes for TestRun {}

/// Runs a program on one frame in the kernel, and returns its verdict.
#[cfg(test)]
pub(crate) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<i32> {
    const PROG_TEST_RUN: libc::c_long = 10;
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut run)?;
    Ok(run.retval as i32)
}

/// The address that binds a packet socket to one interface and one EtherType.
pub(crate) fn packet_address(index: u32, ethertype: u16) -> io::Result<socket2::SockAddr> {
    // SAFETY: the closure writes a whole `sockaddr_ll`, which fits the storage, and its true length.
    let ((), address) = unsafe {
        socket2::SockAddr::try_init(|storage, length| {
            let link = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: ethertype.to_be(),
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            storage.cast::<libc::sockaddr_ll>().write(link);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

/// Registers a socket with the tokio reactor, for reading.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn readable(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, always shows the same one, and closes it when it is
    // dropped: after the `AsyncFd` that owns it here was deregistered. Nobody calls `get_mut`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

mod watchdog_ioctl {
    // `_IOWR('W', 6, int)`, linux/watchdog.h.
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
}

/// Asks an open watchdog device to restart the host after so many seconds; returns what it made of them.
pub(crate) fn set_watchdog_timeout(device: BorrowedFd<'_>, seconds: i32) -> io::Result<i32> {
    let mut granted = seconds;
    // SAFETY: the pointer is to a live `int`; a descriptor of anything else than a watchdog refuses the request.
    unsafe { watchdog_ioctl::set_timeout(device.as_raw_fd(), &mut granted) }?;
    Ok(granted)
}
