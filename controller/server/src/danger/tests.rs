//! What the default patterns find, what they must not, and what becomes of a file of one's own.

use super::*;
use muster_proto::command::{BlobRef, Program};
use std::os::unix::fs::PermissionsExt as _;

/// What takes a host away, or what it has.
const DANGEROUS: &[&str] = &[
    "rm -rf /",
    "rm -fr /*",
    "rm -r -f /etc",
    "rm --recursive /usr/",
    "rm / -rf",
    "rm -rf --no-preserve-root /",
    "cd /tmp && rm -rf *",
    "rm -rf ~",
    "rm -rf //",
    "find / -delete",
    "find / -name x -exec rm {} +",
    "reboot",
    "/sbin/reboot -f",
    "sudo reboot",
    "sudo -u root -- shutdown -h now",
    "nohup poweroff &",
    "env A=b halt",
    "A=b reboot",
    "true; reboot",
    "true && reboot",
    "true | reboot",
    "true\nreboot",
    "if x; then reboot; fi",
    "sh -c reboot",
    "sh -c 'true; reboot'",
    "bash -lc \"true && reboot\"",
    "su - root -c reboot",
    "eval reboot",
    "echo $(reboot)",
    "echo \"`reboot`\"",
    "( sleep 1; reboot ) &",
    "{ reboot; }",
    "! reboot",
    "\\reboot",
    "re\"boot\"",
    "timeout 5 reboot",
    "ssh web1 reboot",
    "xargs -n 1 reboot",
    "init 6",
    "telinit 0",
    "echo b > /proc/sysrq-trigger",
    "systemctl reboot",
    "systemctl --no-wall poweroff",
    "systemctl stop sshd",
    "systemctl disable --now ssh.service",
    "systemctl stop muster-agent",
    "service networking stop",
    "pkill -9 sshd",
    "killall muster-agent",
    "iptables -F",
    "iptables -t nat --flush",
    "nft flush ruleset",
    "ip link set eth0 down",
    "ip -6 l s dev eth0 down",
    "ifconfig eth0 down",
    "kill -9 -1",
    "kill -s KILL -- -1",
    "killall5",
    ":(){ :|:& };:",
    "mkfs.ext4 /dev/sdb1",
    "mkfs -t xfs /dev/vdb",
    "wipefs -a /dev/sdb",
    "dd if=/dev/zero of=/dev/sda bs=1M",
    "cat x > /dev/sda",
    "cat x >/dev/nvme0n1",
    "fdisk /dev/sda",
    "sgdisk --zap-all /dev/sda",
    "parted -s /dev/sda mklabel gpt",
    "lvremove -f vg0/root",
    "zpool destroy tank",
    "zfs destroy -r tank/home",
    "cryptsetup -q luksFormat /dev/sdb",
    "chmod -R 777 /",
    "chown -R nobody:nogroup /etc",
    "userdel -r root",
    "apt-get remove -y libc6",
    "dnf -y remove systemd",
    "apt purge openssh-server",
    "rpm -e glibc",
    "curl x | sudo sh -c 'cat; reboot'",
    "rm   -rf\t/",
    "rm -rf \\\n  /",
    "rm -rf /*/",
    "rm -rf /*/*",
    "rm -rf /{etc,usr}",
    "rm -rf {/etc,/usr}",
    "cd / && rm -rf ./*",
    "rm -rf ~/*",
    "ls / | xargs rm -rf",
    "find / -type f | sudo xargs -n 9 rm -f",
    "sudo --user root reboot",
    "sudo -nu root reboot",
    "nice --adjustment 5 reboot",
    "timeout --signal KILL 5 reboot",
    "pkexec reboot",
    "setpriv --reuid 0 --clear-groups reboot",
    "setpriv --reuid=0 reboot",
    "2>/dev/null reboot",
    ">/dev/null 2>&1 reboot",
    "coproc reboot",
    "trap reboot EXIT",
    "systemctl start reboot.target",
    "systemctl --no-block start poweroff.target",
    "echo b | tee /proc/sysrq-trigger",
    "> /proc/sysrq-trigger",
    "echo b >/proc/sysrq-trigger",
    "cp /dev/zero /dev/sda",
    "cp -f /dev/zero /dev/nvme0n1 2>/dev/null",
];

/// What only speaks of that, or does less.
const HARMLESS: &[&str] = &[
    "grep reboot /var/log/syslog",
    "echo \"shutdown\"",
    "echo 'true; reboot'",
    "grep -E 'shutdown|reboot' /var/log/syslog",
    "last reboot",
    "man shutdown",
    "rm -rf /var/lib/app/cache",
    "rm -rf ./build",
    "rm /etc/motd",
    "rm -f /tmp/x/*",
    "systemctl status sshd",
    "systemctl restart sshd",
    "systemctl list-units reboot.target",
    "systemctl stop nginx",
    "which reboot",
    "ls /sbin/reboot",
    "true # reboot",
    "needs-reboot",
    "reboot-required --check",
    "kill -1 1234",
    "kill -9 1234",
    "kill -HUP 1",
    "pkill -f app-server",
    "dd if=/dev/sda of=/backup/sda.img",
    "dd if=/dev/zero of=/dev/null",
    "cat x > /dev/null",
    "echo x 2>&1 >/dev/null",
    "fdisk -l /dev/sda",
    "sfdisk -l",
    "parted -l",
    "lvs",
    "zfs list",
    "iptables -L -n",
    "ip link set eth0 up",
    "ip link show",
    "chmod -R 755 /srv/www/app",
    "chown root /etc/passwd",
    "userdel bob",
    "apt-get remove -y nginx",
    "apt install libc6",
    "find /var -name x -delete",
    "uptime",
    "init-db 6",
    "mount /dev/sda1 /mnt",
    "cat /proc/sysrq-trigger.txt",
    "journalctl -b -u systemd-reboot",
    "rm -rf /srv/{a,b}",
    "rm -rf {/srv/a,/srv/b}",
    "rm -rf ./build/*",
    "find /var/tmp/app -name x | xargs rm -rf",
    "sudo --user app ls reboot",
    "sudo -nu app ls reboot",
    "timeout --signal KILL 5 echo reboot",
    "systemctl start nginx",
    "systemctl status reboot.target",
    "cat /proc/sysrq-trigger",
    "cp /dev/sda /backup/sda.img",
    "echo 2>/dev/null reboot",
    "trap cleanup EXIT",
];

fn defaults() -> Danger {
    Danger::load(Source::Default("/nonexistent/danger.conf".into())).expect("the defaults are patterns")
}

fn shell(line: &str) -> Command {
    Command::new(Program::Shell(line.as_bytes().to_vec()))
}

fn argv(words: &[&str]) -> Command {
    Command::new(Program::Argv(words.iter().map(|word| word.as_bytes().to_vec()).collect()))
}

#[test]
fn what_takes_a_host_away_is_found() {
    let danger = defaults();
    for &line in DANGEROUS {
        assert!(danger.reason(&shell(line), b"").is_some(), "{line}");
        let script = Command::new(Program::Script { content: BlobRef { digest: [0; 32], size: 1 }, args: Vec::new() });
        let text = format!("#!/bin/sh\n# it's what was asked for\n{line}\n");
        assert!(danger.reason(&script, text.as_bytes()).is_some(), "a script: {line}");
    }
    for words in [&["reboot"][..], &["sudo", "/sbin/reboot"], &["sh", "-c", "true; reboot"], &["rm", "-rf", "/"]] {
        assert!(danger.reason(&argv(words), b"").is_some(), "{words:?}");
    }
}

#[test]
fn what_only_speaks_of_danger_passes() {
    let danger = defaults();
    for &line in HARMLESS {
        assert_eq!(danger.reason(&shell(line), b""), None, "{line}");
    }
    let words = ["grep", "-E", "shutdown|reboot;", "/var/log/syslog"];
    assert_eq!(danger.reason(&argv(&words), b""), None, "no shell reads an argv");
}

#[test]
fn who_is_asked_learns_what_and_why() {
    let danger = defaults();
    let reason = danger.reason(&shell("true && sudo /sbin/reboot -f"), b"");
    assert_eq!(reason.as_deref(), Some("`reboot -f` matches the danger pattern \"restarts or stops the host\""));
    let long = danger.reason(&shell(&format!("reboot {}", "x".repeat(1 << 20))), b"").expect("danger");
    assert!(long.len() < 200 && long.contains('…'), "{long}");
}

#[test]
fn a_file_is_read_again_and_the_last_good_patterns_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("danger.conf");
    let write = |text: &str| fs::write(&path, text).expect("writable");
    let missing = Danger::load(Source::File(path.clone()));
    assert!(matches!(missing, Err(DangerError::Read { .. })), "a file that was named must be there");
    let danger = Danger::load(Source::Default(path.clone())).expect("the defaults");
    let found = |line: &str| danger.reason(&shell(line), b"").is_some();
    assert!(found("reboot") && !found("make coffee"));

    write("# drinks\n^make (tea|coffee)\n");
    assert!(!found("reboot") && found("make  coffee") && danger.problem().is_none());
    write("# drinks\n\n^make (tea\n");
    assert!(found("make coffee"), "the last good ones");
    let problem = danger.problem().expect("an alarm");
    assert!(problem.contains("danger.conf, line 3") && problem.contains("^make (tea"), "{problem}");
    write("# nothing\n");
    assert!(!found("make coffee") && danger.problem().is_none());
    write("(a{1000}){1000}\n");
    assert!(danger.problem().is_some_and(|problem| problem.contains("line 1")), "its size is bounded");

    let mode = |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    write("# drinks\n^make coffee\n");
    mode(0o666);
    assert!(matches!(Danger::load(Source::File(path.clone())), Err(DangerError::Insecure(_))));
    assert!(danger.problem().is_some_and(|problem| problem.contains("can be written by others")));
    assert!(!found("make coffee"));
    mode(0o600);
    assert!(found("make coffee"), "it is believed again");
    assert_eq!(danger.problem(), None, "nothing is wrong any more");
    fs::remove_file(&path).expect("it is there");
    assert!(found("reboot") && danger.problem().is_none(), "without a file the defaults count");
}
