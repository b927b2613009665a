//! `sysstat` and `disk_usage`: processors, memory, disks and network of the host that the collector runs on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use serde_json::{Map, Value, json};
use sysinfo::{Disk, DiskRefreshKind, Disks, MemoryRefreshKind, Networks, System};

use super::proc::{CpuTicks, parse_cached, parse_disks};
use super::source::{Fields, value};

/// How long the first reading watches the processors: there is no earlier one to compare with.
const FIRST_INTERVAL: Duration = Duration::from_millis(200);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Reads the host. Remembers the processors' counters, so that shares are those of the time between two readings.
#[derive(Debug, Default)]
pub(in crate::collector) struct Host {
    ticks: Option<CpuTicks>,
}

/// What was read, or what could not be read and why.
#[derive(Debug, Default)]
pub(in crate::collector) struct HostReading {
    pub fields: Fields,
    pub errors: Vec<String>,
}

impl Host {
    /// Reads processors, memory, disk and network counters. Blocks for some milliseconds, the first time for 200.
    pub(in crate::collector) fn read_sysstat(&mut self) -> HostReading {
        let mut reading = HostReading::default();
        reading.fields.insert("cpu".into(), value(&self.cpu(&mut reading.errors)));
        reading.take("memory", memory());
        if let Ok(text) = fs::read_to_string("/proc/diskstats") {
            let disks = parse_disks(&text, |device| Path::new("/sys/block").join(device).exists());
            reading.fields.insert("disk_io".into(), value(&disks));
        }
        reading.take("network", network());
        reading
    }

    fn cpu(&mut self, errors: &mut Vec<String>) -> Value {
        let mut cpu = Map::new();
        if let Some(before) = self.ticks.or_else(read_ticks) {
            if self.ticks.is_none() {
                thread::sleep(FIRST_INTERVAL);
            }
            self.ticks = read_ticks();
            if let Some(Value::Object(shares)) =
                self.ticks.and_then(|now| now.since(before)).map(|shares| json!(shares))
            {
                cpu.extend(shares);
            }
        }
        match System::load_average() {
            Ok(load) => {
                cpu.insert("load_1m".into(), load.one.into());
                cpu.insert("load_5m".into(), load.five.into());
                cpu.insert("load_15m".into(), load.fifteen.into());
            }
            Err(error) => errors.push(format!("load average: {error:?}")),
        }
        if let Ok(count) = thread::available_parallelism() {
            cpu.insert("cores".into(), count.get().into());
        }
        Value::Object(cpu)
    }
}

impl HostReading {
    fn take(&mut self, name: &str, part: Result<Value, sysinfo::Error>) {
        match part {
            Ok(part) => {
                self.fields.insert(name.into(), value(&part));
            }
            Err(error) => self.errors.push(format!("{name}: {error:?}")),
        }
    }
}

/// Reads how full the file systems are. Blocks for as long as a dead network file system does.
pub(in crate::collector) fn read_disk_usage() -> HostReading {
    let mut reading = HostReading::default();
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing());
    reading.take("filesystems", disks.map(|disks| filesystems(&disks)));
    reading
}

fn read_ticks() -> Option<CpuTicks> {
    CpuTicks::parse(&fs::read_to_string("/proc/stat").ok()?)
}

fn memory() -> Result<Value, sysinfo::Error> {
    let mut system = System::new()?;
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    let [total, free, available] = [system.total_memory(), system.free_memory(), system.available_memory()];
    let cached = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_cached(&text));
    let cached = cached.unwrap_or(available.saturating_sub(free));
    Ok(json!({
        "total_mb": total / MIB,
        "free_mb": free / MIB,
        "cached_mb": cached / MIB,
        "used_mb": total.saturating_sub(free).saturating_sub(cached) / MIB,
        "available_mb": available / MIB,
        "used_percent": percent(total.saturating_sub(available), total),
        "swap_total_mb": system.total_swap() / MIB,
        "swap_used_mb": system.used_swap() / MIB,
    }))
}

fn network() -> Result<Value, sysinfo::Error> {
    let networks = Networks::new_with_refreshed_list()?;
    let mut interfaces: Vec<Value> = networks
        .iter()
        .map(|(name, data)| (name.to_string_lossy(), data))
        .filter(|(name, _)| name != "lo")
        .map(|(name, data)| {
            json!({
                "interface": name,
                "received_bytes": data.total_received(),
                "sent_bytes": data.total_transmitted(),
                "received_packets": data.total_packets_received(),
                "sent_packets": data.total_packets_transmitted(),
                "receive_errors": data.total_errors_on_received(),
                "send_errors": data.total_errors_on_transmitted(),
            })
        })
        .collect();
    interfaces.sort_by(|a, b| a["interface"].as_str().cmp(&b["interface"].as_str()));
    Ok(Value::Array(interfaces))
}

/// One row a device: a bind mount shows the same space again.
fn filesystems(disks: &Disks) -> Value {
    let mut seen = BTreeSet::new();
    let mut mounted: Vec<&Disk> = disks.iter().filter(|disk| is_storage(disk)).collect();
    mounted.sort_by_key(|disk| disk.mount_point().as_os_str().len());
    mounted.retain(|disk| seen.insert(disk.name().to_owned()));
    mounted.into_iter().filter_map(filesystem).collect()
}

fn is_storage(disk: &Disk) -> bool {
    let kind = disk.file_system().to_string_lossy();
    !["tmpfs", "devtmpfs", "ramfs", "squashfs", "iso9660"].contains(&kind.as_ref())
}

fn filesystem(disk: &Disk) -> Option<Value> {
    let space = statvfs(disk.mount_point()).ok()?;
    let unit = space.fragment_size();
    let [total, free, available] =
        [space.blocks(), space.blocks_free(), space.blocks_available()].map(|blocks| blocks * unit);
    let used = total.saturating_sub(free);
    (total > 0).then(|| {
        json!({
            "device": disk.name().to_string_lossy(),
            "mount": disk.mount_point().to_string_lossy(),
            "file_system": disk.file_system().to_string_lossy(),
            "total_gb": total / GIB,
            "used_gb": used / GIB,
            "free_gb": available / GIB,
            "percent_used": percent(used, total),
            "percent_full": percent(used, used + available),
            "total_bytes": total,
            "used_bytes": used,
            "free_bytes": available,
            "inodes_total": space.files(),
            "inodes_free": space.files_available(),
            "read_only": disk.is_read_only(),
        })
    })
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(reading: &HostReading, name: &str) -> Value {
        serde_json::from_str(reading.fields[name].get()).unwrap()
    }

    #[test]
    fn this_host_is_read_in_the_wire_shape() {
        let reading = Host::default().read_sysstat();
        assert_eq!(reading.errors, Vec::<String>::new());
        let cpu = field(&reading, "cpu");
        let shares: f64 = ["user", "system", "idle", "iowait", "steal"]
            .iter()
            .map(|name| cpu[name].as_f64().unwrap())
            .sum();
        assert!((shares - 100.0).abs() < 1e-6, "{cpu}");
        assert!(cpu["load_1m"].is_f64() && cpu["load_15m"].is_f64(), "{cpu}");
        let memory = field(&reading, "memory");
        let total = memory["total_mb"].as_u64().unwrap();
        let parts = ["free_mb", "cached_mb", "used_mb"].map(|name| memory[name].as_u64().unwrap());
        assert!(total > 0 && parts.iter().sum::<u64>() <= total, "{memory}");
        assert!(field(&reading, "disk_io").is_array());
        for interface in field(&reading, "network").as_array().unwrap() {
            assert!(
                interface["interface"].is_string() && interface["received_bytes"].is_u64(),
                "{interface}"
            );
        }
    }

    #[test]
    fn file_systems_have_mount_points_and_consistent_ratios() {
        let reading = read_disk_usage();
        assert_eq!(reading.errors, Vec::<String>::new());
        for row in field(&reading, "filesystems").as_array().unwrap() {
            assert!(row["mount"].as_str().unwrap().starts_with('/'), "{row}");
            let [used, total] = ["used_bytes", "total_bytes"].map(|name| row[name].as_f64().unwrap());
            assert!((row["percent_used"].as_f64().unwrap() - 100.0 * used / total).abs() < 1e-9, "{row}");
        }
    }
}
