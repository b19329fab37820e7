//! A disk of one's own, which can be full, and which can lose what was not synced as if its power were cut.
//!
//! The thread that asks for one gets its own view of the mounts (a namespace), and so does all that it starts: nobody else
//! sees the disk, and it goes away with the test, whatever becomes of that.

use rustix::ioctl;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

use crate::until;

/// FS_IOC_GOINGDOWN of Linux: from now on nothing reaches the disk.
const GOING_DOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
/// Not even the file system's own log.
const WITHOUT_LOG: u32 = 2;

/// A mounted file system. It is unmounted with the value.
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// One in memory, of so many MiB. `None`, said loudly, where we may not mount.
    pub fn small(mib: u32) -> Option<Self> {
        Self::with(|disk| {
            let options = std::ffi::CString::new(format!("size={mib}m,mode=700")).map_err(io::Error::other)?;
            Ok(rustix::mount::mount("muster", disk.path(), "tmpfs", MountFlags::empty(), options.as_c_str())?)
        })
    }

    /// One that can lose its power: ext4 on a file. `None`, said loudly, where it cannot be made.
    pub fn with_power(mib: u64) -> Option<Self> {
        Self::with(|disk| {
            File::create(disk.image())?.set_len(mib << 20)?;
            run(Command::new("mkfs.ext4").args(["-q", "-O", "^metadata_csum_seed"]).arg(disk.image()))?;
            disk.mount_image()
        })
    }

    #[expect(clippy::print_stdout, reason = "a test that is left out must say so")]
    fn with(mount: impl Fn(&Self) -> io::Result<()>) -> Option<Self> {
        let disk = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir(disk.path()).expect("a new directory");
        match own_mounts().and_then(|()| mount(&disk)) {
            Ok(()) => Some(disk),
            Err(error) => {
                println!("SKIPPED: this test needs to mount a file system, and may not or cannot: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_image(&self) -> io::Result<()> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(self.image()).arg(self.path()))
    }

    /// Takes all space there is. It is given back when the value is dropped.
    pub fn fill(&self) -> Ballast {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).expect("a new file");
        let mut piece = vec![0_u8; 1 << 20];
        while !piece.is_empty() {
            match file.write(&piece) {
                Ok(count) if count > 0 => {}
                _ => piece.truncate(piece.len() / 2),
            }
        }
        Ballast { path }
    }

    /// From now on nothing reaches it, and whatever was not synced is lost.
    #[expect(unsafe_code, reason = "there is no safe name for this system call")]
    pub fn cut_power(&self) {
        let root = File::open(self.path()).expect("the disk is mounted");
        // SAFETY: the call takes a pointer to one u32 with this opcode, and keeps no pointer.
        let done = unsafe { ioctl::ioctl(&root, ioctl::Setter::<GOING_DOWN, u32>::new(WITHOUT_LOG)) };
        done.expect("ext4 can be shut down");
    }

    /// Mounts it again after [`Disk::cut_power`]. Everybody who had something open on it must be gone.
    pub fn power_on(&self) {
        until(Duration::from_secs(30), "nobody uses the disk any more", || {
            rustix::mount::unmount(self.path(), UnmountFlags::empty()).is_ok()
        });
        self.mount_image().expect("the file system is whole");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If that fails, it goes with the namespace.
        let _ = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// What fills a disk.
pub struct Ballast {
    path: PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.path).expect("it can be removed");
    }
}

/// Lets this thread, and all that it starts from now on, believe that the host was restarted since `before`.
pub fn pretend_reboot(scratch: &Path) -> io::Result<()> {
    let boot = scratch.join("boot_id");
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::write(&boot, id)?;
    Ok(rustix::mount::mount_bind(&boot, "/proc/sys/kernel/random/boot_id")?)
}

/// What this thread mounts from now on is seen by it and its children alone.
#[expect(unsafe_code, reason = "there is no safe name for this system call")]
fn own_mounts() -> io::Result<()> {
    // SAFETY: it is about mounts alone; no descriptor is touched.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", command.get_program().display(), said.trim())))
}
