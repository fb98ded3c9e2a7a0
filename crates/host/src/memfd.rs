//! Bytes handed over as a descriptor that nobody can change any more.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// `name` is what `/proc/PID/fd` shows.
pub fn create(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    // Leaves the position at the beginning, for a receiver that reads it as a stream.
    file.write_all_at(bytes, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// The content of a sealed memfd of at most `limit` bytes; a descriptor that could still change is refused.
pub fn read(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    if !fcntl_get_seals(&fd)?.contains(SEALS) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptor is not sealed"));
    }
    let file = File::from(fd);
    let size = file.metadata()?.len();
    if size > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes are more than {limit}")));
    }
    let mut bytes = vec![0u8; size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_cannot_be_changed() {
        let fd = create("snapshot", b"content").unwrap();
        let twin = File::from(fd.try_clone().unwrap());
        assert!(twin.write_all_at(b"X", 0).is_err());
        assert!(read(fd.try_clone().unwrap(), 3).is_err());
        assert_eq!(read(fd, 100).unwrap(), b"content");
        let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read(open, 100).is_err());
    }
}
