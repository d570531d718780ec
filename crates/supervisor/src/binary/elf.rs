//! Whether a file is a whole program of this machine, by the ELF header alone (elf(5)).
//!
//! ```text
//!   bytes ─▶ Header::parse ─▶ same class, order, machine? ─▶ is everything that it points to inside the file?
//! ```
//!
//! Everything here is pure. The kernel looks at most of it, too, when it executes the file; here it is found before
//! anything is started, and said in words. What only executing shows (a missing interpreter, a missing library) is left
//! to the preflight.

/// Bytes of the longest header.
pub(super) const HEADER_BYTES: usize = 64;
/// More headers of one kind than this are in no program.
const MAX_ENTRIES: u64 = 65_535;

/// `EI_CLASS`, `EI_DATA`: where they stand in the header.
const CLASS: usize = 4;
const DATA: usize = 5;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE: u8 = 1;
const BIG: u8 = 2;
/// `ET_EXEC`, `ET_DYN`: programs at a fixed address, and at any.
const PROGRAMS: [u16; 2] = [2, 3];
/// `PT_LOAD`: a part of the file that is in memory when it runs.
const LOAD: u32 = 1;

/// Why a file is no program that can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It begins with `#!`.
    #[error("is a script; the server's own program is needed, not something that starts it")]
    Script,
    /// It is shorter than a header.
    #[error("is no program: it has only {0} bytes")]
    Short(u64),
    /// It does not begin as a program does.
    #[error("is no program: it does not begin with an ELF header")]
    NoElf,
    /// The header contradicts itself.
    #[error("is no program: its ELF header makes no sense ({0})")]
    Senseless(&'static str),
    /// It is an object file, a core dump.
    #[error("is no program but another kind of ELF file (type {0})")]
    Kind(u16),
    /// It is a program for another machine.
    #[error("is a program for {theirs}, and this machine runs programs for {ours}")]
    Foreign {
        /// Its machine.
        theirs: String,
        /// This one.
        ours: String,
    },
    /// It ends before its own headers say.
    #[error(
        "is not whole: it has {found} bytes, and its own headers speak of {needed}: was it being copied?"
    )]
    Truncated {
        /// Its length.
        found: u64,
        /// The least length that it can have.
        needed: u64,
    },
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    class: u8,
    data: u8,
    machine: u16,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.class == CLASS_64 { 64 } else { 32 };
        let order = if self.data == BIG { ", big-endian" } else { "" };
        // The ABI's numbers (elf.h, EM_…).
        let name = match self.machine {
            3 => "x86",
            8 => "MIPS",
            20 | 21 => "PowerPC",
            22 => "S/390",
            40 => "ARM",
            62 => "x86-64",
            183 => "AArch64",
            243 => "RISC-V",
            258 => "LoongArch",
            other => return write!(f, "machine {other} ({bits} bit{order})"),
        };
        write!(f, "{name} ({bits} bit{order})")
    }
}

/// A table of headers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Where it begins.
    pub(super) offset: u64,
    /// Bytes of one entry.
    pub(super) entry: u64,
    /// Entries.
    pub(super) count: u64,
}

impl Table {
    /// Bytes of the whole; never more than 2^32.
    pub(super) fn bytes(&self) -> u64 {
        self.entry.saturating_mul(self.count)
    }

    fn end(&self) -> u64 {
        if self.count == 0 { 0 } else { self.offset.saturating_add(self.bytes()) }
    }
}

/// The fields of the header that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// What it is for.
    pub(super) machine: Machine,
    /// Its parts in memory.
    pub(super) programs: Table,
    sections: Table,
    kind: u16,
}

/// Integers of a file in the file's own order.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Reader<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if self.big {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn long(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// An address or offset: four or eight bytes.
    fn offset(&self, class: u8, at: usize) -> Option<u64> {
        if class == CLASS_64 { self.long(at) } else { self.word(at).map(u64::from) }
    }
}

impl Header {
    /// Reads the first bytes of a file that has `length`.
    ///
    /// # Errors
    /// It is no program.
    pub(super) fn parse(head: &[u8], length: u64) -> Result<Self, Fault> {
        if head.starts_with(b"#!") {
            return Err(Fault::Script);
        }
        if !head.starts_with(b"\x7fELF") {
            return Err(if length < HEADER_BYTES as u64 { Fault::Short(length) } else { Fault::NoElf });
        }
        let (class, data) = match (head.get(CLASS), head.get(DATA)) {
            (Some(&class @ (CLASS_32 | CLASS_64)), Some(&data @ (LITTLE | BIG))) => (class, data),
            (Some(_), Some(_)) => return Err(Fault::Senseless("its class or byte order")),
            _ => return Err(Fault::Short(length)),
        };
        Self::fields(Reader { bytes: head, big: data == BIG }, class, data).ok_or(Fault::Short(length))
    }

    fn fields(read: Reader<'_>, class: u8, data: u8) -> Option<Self> {
        // After the sixteen bytes of identification: type, machine, version, entry, the two tables' offsets, flags …
        let wide = class == CLASS_64;
        let (programs_at, sections_at, sizes_at) = if wide { (32, 40, 54) } else { (28, 32, 42) };
        let size = |index: usize| read.half(sizes_at + 2 * index).map(u64::from);
        Some(Self {
            machine: Machine { class, data, machine: read.half(18)? },
            kind: read.half(16)?,
            programs: Table { offset: read.offset(class, programs_at)?, entry: size(0)?, count: size(1)? },
            sections: Table { offset: read.offset(class, sections_at)?, entry: size(2)?, count: size(3)? },
        })
    }

    /// Whether it is a program for the machine of `ours`, whose tables of headers are inside a file of `length`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, ours: Machine, length: u64) -> Result<(), Fault> {
        if self.machine != ours {
            return Err(Fault::Foreign { theirs: self.machine.to_string(), ours: ours.to_string() });
        }
        if !PROGRAMS.contains(&self.kind) {
            return Err(Fault::Kind(self.kind));
        }
        let least = if self.machine.class == CLASS_64 { 56 } else { 32 };
        if self.programs.count == 0 || self.programs.count > MAX_ENTRIES || self.programs.entry < least {
            return Err(Fault::Senseless("its table of programs"));
        }
        whole(self.programs.end().max(self.sections.end()), length)
    }

    /// Whether all parts in `table`, the bytes of [`Header::programs`], are inside a file of `length`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check_parts(&self, table: &[u8], length: u64) -> Result<(), Fault> {
        let read = Reader { bytes: table, big: self.machine.data == BIG };
        let class = self.machine.class;
        let (offset_at, bytes_at) = if class == CLASS_64 { (8, 32) } else { (4, 16) };
        let entry = usize::try_from(self.programs.entry).unwrap_or(usize::MAX);
        let count = usize::try_from(self.programs.count).unwrap_or(usize::MAX);
        let mut loads = 0_u64;
        for start in (0..count).map(|index| index.saturating_mul(entry)) {
            let part = read.word(start).zip(read.offset(class, start.saturating_add(offset_at)));
            let bytes = read.offset(class, start.saturating_add(bytes_at));
            let (Some((kind, offset)), Some(bytes)) = (part, bytes) else {
                return Err(Fault::Senseless("its table of programs"));
            };
            whole(if bytes == 0 { 0 } else { offset.saturating_add(bytes) }, length)?;
            loads += u64::from(kind == LOAD);
        }
        if loads == 0 { Err(Fault::Senseless("nothing of it is loaded")) } else { Ok(()) }
    }
}

fn whole(needed: u64, found: u64) -> Result<(), Fault> {
    if needed > found { Err(Fault::Truncated { found, needed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// This test's own program.
    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    /// The whole examination of bytes that are in memory.
    fn examine(bytes: &[u8], ours: Machine) -> Result<(), Fault> {
        let length = bytes.len() as u64;
        let header = Header::parse(&bytes[..bytes.len().min(HEADER_BYTES)], length)?;
        header.check(ours, length)?;
        let at = usize::try_from(header.programs.offset).unwrap();
        let table = &bytes[at..at + usize::try_from(header.programs.bytes()).unwrap()];
        header.check_parts(table, length)
    }

    fn ours(bytes: &[u8]) -> Machine {
        Header::parse(&bytes[..HEADER_BYTES], bytes.len() as u64).unwrap().machine
    }

    #[test]
    fn a_program_that_runs_here_is_whole() {
        let own = own();
        assert_eq!(examine(&own, ours(&own)), Ok(()));
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(examine(&shell, ours(&own)), Ok(()));
    }

    #[test]
    fn a_program_of_which_any_part_at_the_end_is_missing_is_not_whole() {
        let shell = std::fs::read("/bin/sh").unwrap();
        let machine = ours(&shell);
        for length in [1, 4, 17, 63, 64, 100, 1_000, shell.len() / 2, shell.len() - 1] {
            let found = examine(&shell[..length], machine).unwrap_err();
            let known = matches!(found, Fault::Truncated { .. } | Fault::Short(_));
            assert!(known, "{length} bytes: {found}");
        }
        let said = examine(&shell[..1_000], machine).unwrap_err().to_string();
        assert!(said.contains("it has 1000 bytes"), "{said}");
    }

    #[test]
    fn a_program_for_another_machine_is_named_as_one() {
        let mut own = own();
        let machine = ours(&own);
        let other: u16 = if machine.machine == 183 { 62 } else { 183 };
        own[18..20].copy_from_slice(&other.to_le_bytes());
        let said = examine(&own, machine).unwrap_err().to_string();
        assert!(said.contains("x86-64") && said.contains("AArch64"), "{said}");
        own[CLASS] = CLASS_32;
        assert!(matches!(examine(&own, machine), Err(Fault::Foreign { .. })));
        own[CLASS] = 9;
        assert!(matches!(examine(&own, machine), Err(Fault::Senseless(_))));
    }

    #[test]
    fn a_header_in_the_other_byte_order_and_of_the_other_class_is_read_too() {
        let mut bytes = vec![0; 200];
        bytes[..7].copy_from_slice(b"\x7fELF\x01\x02\x01");
        bytes[16..20].copy_from_slice(&[0, 2, 0, 20]);
        bytes[28..32].copy_from_slice(&52_u32.to_be_bytes());
        bytes[42..46].copy_from_slice(&[0, 32, 0, 1]);
        bytes[52..56].copy_from_slice(&LOAD.to_be_bytes());
        bytes[56..60].copy_from_slice(&100_u32.to_be_bytes());
        bytes[68..72].copy_from_slice(&100_u32.to_be_bytes());
        assert_eq!(ours(&bytes).to_string(), "PowerPC (32 bit, big-endian)");
        assert_eq!(examine(&bytes, ours(&bytes)), Ok(()));
        let cut = &bytes[..199];
        assert_eq!(examine(cut, ours(&bytes)), Err(Fault::Truncated { found: 199, needed: 200 }));
    }

    #[test]
    fn scripts_texts_and_object_files_are_told_apart() {
        let own = own();
        let machine = ours(&own);
        assert_eq!(examine(b"#!/bin/sh\nexec handover\n", machine), Err(Fault::Script));
        assert_eq!(examine(b"", machine), Err(Fault::Short(0)));
        assert_eq!(examine(&[b' '; 100], machine), Err(Fault::NoElf));
        let mut object = own;
        object[16..18].copy_from_slice(&1_u16.to_le_bytes());
        assert_eq!(examine(&object, machine), Err(Fault::Kind(1)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_judged_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            length in any::<u64>(),
            class in 0_u8..4,
            data in 0_u8..4,
            table in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for (at, byte) in b"\x7fELF".iter().chain(&[class, data]).enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = *byte;
                }
            }
            if let Ok(header) = Header::parse(&bytes, length) {
                let _ = header.check(header.machine, length);
                let _ = header.check_parts(&table, length);
            }
        }

        #[test]
        fn a_program_with_one_byte_changed_in_its_headers_never_passes_with_a_part_outside(
            at in 0_usize..HEADER_BYTES,
            value in any::<u8>(),
        ) {
            let mut shell = std::fs::read("/bin/sh").unwrap();
            let machine = ours(&shell);
            shell[at] = value;
            let length = shell.len() as u64;
            let Ok(header) = Header::parse(&shell[..HEADER_BYTES], length) else { return Ok(()) };
            if header.check(machine, length).is_ok() {
                prop_assert!(header.programs.end() <= length && header.sections.end() <= length);
            }
        }
    }
}
