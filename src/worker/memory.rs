//! What the kernel says of the memory that this process may use, with all others of its container.

use std::{fs, path::PathBuf};

/// Set for a worker whose predecessor was killed since memory ran out.
pub const OUT_OF_MEMORY: &str = "MAILRELAY_PREDECESSOR_OUT_OF_MEMORY";

/// What a worker needs beside the bodies of mails.
const REST: u64 = 40 * 1024 * 1024;
/// What bodies may take at most, and what they have at the least.
const MOST: u64 = 512 * 1024 * 1024;
const LEAST: u64 = 8 * 1024 * 1024;
/// The limit that is kept where nobody set one, that of examples/deployment.yaml: a sidecar is a guest.
const UNLIMITED: u64 = 128 * 1024 * 1024;
/// From this figure on a limit is none, however the kernel writes it.
const NONE: u64 = 1 << 60;

/// How many bytes of memory the bodies of mails may take in this container.
pub fn for_bodies() -> usize {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = files(&groups, "memory.max", "memory.limit_in_bytes");
    let limit = limits.into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).min();
    usize::try_from(bodies(limit)).unwrap_or(usize::MAX)
}

fn bodies(limit: Option<u64>) -> u64 {
    limit.filter(|limit| *limit < NONE).unwrap_or(UNLIMITED).saturating_sub(REST).clamp(LEAST, MOST)
}

/// How many processes of this container the kernel has killed since memory ran out; none when it does not say.
pub fn kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    files(&groups, "memory.events", "memory.oom_control")
        .into_iter()
        .find_map(|file| count(&fs::read_to_string(file).ok()?))
}

/// Where a figure may be, by what `/proc/self/cgroup` says in `groups`; its file is named `v2` in cgroup v2 and `v1` in v1.
/// In either by the path in the whole hierarchy, then as a container sees it, whose own group is the root.
fn files(groups: &str, v2: &str, v1: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match (number, controllers) {
            ("0", "") => ("/sys/fs/cgroup", v2),
            (_, list) if list.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", v1),
            _ => continue,
        };
        files.extend(
            [format!("{root}{}/{file}", path.trim_end_matches('/')), format!("{root}/{file}")].map(PathBuf::from),
        );
    }
    files
}

/// The `oom_kill` of `memory.events` or `memory.oom_control`.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_found() {
        let files = |groups: &str| files(groups, "memory.events", "memory.oom_control");
        let v1 = files("12:cpu,cpuacct:/a\n9:memory:/pods/b\n0::/\n");
        let v2 = files("0::/pods/b\n");
        let paths = |files: &[PathBuf]| files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            paths(&v1),
            [
                "/sys/fs/cgroup/memory/pods/b/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/memory.events",
                "/sys/fs/cgroup/memory.events"
            ]
        );
        assert_eq!(paths(&v2), ["/sys/fs/cgroup/pods/b/memory.events", "/sys/fs/cgroup/memory.events"]);
    }

    #[test]
    fn bodies_have_what_the_rest_leaves() {
        assert_eq!(bodies(Some(128 << 20)), 88 << 20, "the limit in examples/deployment.yaml");
        assert_eq!((bodies(Some(1 << 20)), bodies(Some(1 << 40))), (LEAST, MOST));
        // As version 1 of cgroups says that there is none.
        assert_eq!((bodies(Some(i64::MAX.unsigned_abs() - 4095)), bodies(None)), (88 << 20, 88 << 20));
    }

    #[test]
    fn the_figure_is_read_from_either_file() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("nothing"), None);
    }
}
