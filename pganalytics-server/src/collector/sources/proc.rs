//! Readings of Linux's `/proc` that `sysinfo` has no names for. On other systems they are unknown.

use serde::Serialize;

/// Processor time by use, in clock ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTicks {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

/// Shares of the processor time between two readings, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct CpuShares {
    pub user: f64,
    pub system: f64,
    pub idle: f64,
    pub iowait: f64,
    pub steal: f64,
    pub utilisation: f64,
}

/// Counters of one block device since boot; a sector is 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DiskCounters {
    pub device: String,
    pub read_ops: u64,
    pub write_ops: u64,
    pub read_sectors: u64,
    pub write_sectors: u64,
    pub io_time_ms: u64,
}

impl CpuTicks {
    /// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find(|line| line.starts_with("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|tick| tick.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        (ticks.len() >= 4).then(|| Self {
            user: at(0) + at(1),
            system: at(2) + at(5) + at(6),
            idle: at(3),
            iowait: at(4),
            steal: at(7),
        })
    }

    /// What the processors did since an earlier reading; nothing when no tick went by.
    pub(super) fn since(self, earlier: Self) -> Option<CpuShares> {
        // The kernel may take back a tick of idle or iowait time.
        let [user, system, idle, iowait, steal] = [
            self.user.saturating_sub(earlier.user),
            self.system.saturating_sub(earlier.system),
            self.idle.saturating_sub(earlier.idle),
            self.iowait.saturating_sub(earlier.iowait),
            self.steal.saturating_sub(earlier.steal),
        ];
        let total = user + system + idle + iowait + steal;
        let percent = |ticks: u64| 100.0 * ticks as f64 / total as f64;
        (total > 0).then(|| CpuShares {
            user: percent(user),
            system: percent(system),
            idle: percent(idle),
            iowait: percent(iowait),
            steal: percent(steal),
            utilisation: percent(user + system + steal),
        })
    }
}

/// Reads `/proc/diskstats`, whole devices only: partitions would be counted twice.
pub(super) fn parse_disks(diskstats: &str, is_whole: impl Fn(&str) -> bool) -> Vec<DiskCounters> {
    diskstats.lines().filter_map(parse_disk).filter(|disk| is_whole(&disk.device)).collect()
}

fn parse_disk(line: &str) -> Option<DiskCounters> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    let device = *fields.get(2)?;
    let virtual_device = ["loop", "ram", "zram"].iter().any(|prefix| device.starts_with(prefix));
    (!virtual_device).then_some(())?;
    Some(DiskCounters {
        device: device.to_owned(),
        read_ops: number(3)?,
        read_sectors: number(5)?,
        write_ops: number(7)?,
        write_sectors: number(9)?,
        io_time_ms: number(12)?,
    })
}

/// Page cache and buffers of `/proc/meminfo`, in bytes.
pub(super) fn parse_cached(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((kib("Cached")? + kib("Buffers")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  64000 24 21000 325000 2000 5 200 165 10 0\ncpu0 1 2 3 4\n";

    #[test]
    fn processor_shares_are_those_of_the_interval_and_add_up() {
        let before = CpuTicks::parse(STAT).unwrap();
        let after = CpuTicks::parse("cpu 64030 24 21010 325050 2010 5 200 165 10 0").unwrap();
        let shares = after.since(before).unwrap();
        assert_eq!((shares.user, shares.system, shares.idle, shares.iowait), (30.0, 10.0, 50.0, 10.0));
        assert_eq!((shares.steal, shares.utilisation), (0.0, 40.0));
    }

    #[test]
    fn no_time_between_readings_gives_no_shares() {
        let ticks = CpuTicks::parse(STAT).unwrap();
        assert_eq!(ticks.since(ticks), None);
        assert_eq!(CpuTicks::parse("intr 1 2"), None);
    }

    #[test]
    fn a_tick_that_is_taken_back_does_not_overflow() {
        let before = CpuTicks::parse("cpu 10 0 10 100 50").unwrap();
        let after = CpuTicks::parse("cpu 20 0 10 90 50").unwrap();
        assert_eq!(after.since(before).unwrap().user, 100.0);
    }

    #[test]
    fn whole_disks_are_read_and_virtual_ones_left_out() {
        let text = " 254 0 vda 172563 23375 26555698 220459 24953 138261 36395296 158317 0 41340 380180 7818\n\
             254 1 vda1 1 2 3 4 5 6 7 8 9 10 11\n   7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n 8 0 sda 1 2\n";
        let disks = parse_disks(text, |name| name != "vda1");
        assert_eq!(
            disks,
            [DiskCounters {
                device: "vda".into(),
                read_ops: 172_563,
                read_sectors: 26_555_698,
                write_ops: 24_953,
                write_sectors: 36_395_296,
                io_time_ms: 41_340,
            }]
        );
    }

    #[test]
    fn cached_memory_is_page_cache_and_buffers() {
        let text = "MemTotal: 100 kB\nBuffers:  20 kB\nCached:  300 kB\nSwapCached: 7 kB\n";
        assert_eq!(parse_cached(text), Some(320 * 1024));
        assert_eq!(parse_cached("MemTotal: 100 kB"), None);
    }
}
