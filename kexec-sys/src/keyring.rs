//! Keys that the kernel keeps (`keyrings(7)`).

#![allow(unsafe_code, reason = "the system calls of keys take pointers")]

use std::ffi::CString;
use std::io;

/// The most bytes of a key of type `user` (`user-keyring(7)`, `add_key(2)`).
const MAX_LEN: usize = 32767;

/// The payload of the key of type `user` by the name `description`, in the keyrings of this process or of its
/// user.
///
/// # Errors
///
/// `ENOKEY` if there is none, `EACCES` if it may not be read, `ENOSYS` if the kernel keeps no keys.
pub fn read_user_key(description: &str) -> io::Result<Vec<u8>> {
    let description = CString::new(description)?;
    let id = request(&description).or_else(|error| {
        // It may be in the keyring of the user, and the session have one of its own.
        search(&description).map_err(|_| error)
    })?;
    let mut bytes = vec![0; MAX_LEN];
    // SAFETY: the kernel writes to so many bytes of the buffer at most, which lives on.
    let len = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_READ,
            id,
            bytes.as_mut_ptr(),
            bytes.len(),
        )
    };
    let key = match usize::try_from(len) {
        Err(_) => Err(io::Error::last_os_error()),
        // So long it is, of which nothing more was read.
        Ok(len) => bytes
            .get(..len)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
    };
    clear(&mut bytes);
    key
}

/// Zeroes what a key was read to, so that the compiler does not leave it out.
fn clear(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// Looks in the keyrings of the thread, the process and the session.
fn request(description: &CString) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads two strings that end with zeros, and no third one.
    check(unsafe {
        libc::syscall(
            libc::SYS_request_key,
            c"user".as_ptr(),
            description.as_ptr(),
            std::ptr::null::<libc::c_char>(),
            0,
        )
    })
}

/// Looks in the keyring of the user.
fn search(description: &CString) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads two strings that end with zeros.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_SEARCH,
            libc::KEY_SPEC_USER_KEYRING,
            c"user".as_ptr(),
            description.as_ptr(),
            0,
        )
    })
}

fn check(id: libc::c_long) -> io::Result<libc::c_long> {
    if id < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the kernel keeps keys, it gives back what it was given; elsewhere it says that it does not.
    #[test]
    fn a_key_reads_back() {
        let name = format!("kjump-test-{}", std::process::id());
        let payload = b"not a secret at all";
        // SAFETY: the kernel reads two strings that end with zeros, and as many bytes as it is told.
        let added = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                CString::new(name.as_str()).unwrap().as_ptr(),
                payload.as_ptr(),
                payload.len(),
                libc::KEY_SPEC_PROCESS_KEYRING,
            )
        };
        let read = read_user_key(&name);
        if added < 0 {
            assert!(read.is_err());
        } else {
            assert_eq!(read.unwrap(), payload);
        }
        assert!(read_user_key("kjump-no-such-key").is_err());
        assert!(read_user_key("a\0b").is_err());
    }
}
