//! What the operating system says of this process. The one place that knows which system it is.

/// Resident memory in bytes and CPU time used in microseconds; zeros where the system does not tell.
#[must_use]
pub fn process_usage() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss_kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|rest| rest.split_whitespace().next());
    let rss_bytes = rss_kib.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 1024;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the command's name, which may hold spaces: utime and stime are the 12th and 13th of them (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let us_per_tick = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    (rss_bytes, (ticks(11) + ticks(12)) * us_per_tick)
}

/// What to type to run this program again from here: its name if the shell would find it, else its path.
#[must_use]
pub fn program() -> String {
    let Ok(exe) = std::env::current_exe() else { return "iris".to_owned() };
    let Some(name) = exe.file_name() else { return "iris".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_some_and(|found| found.canonicalize().is_ok_and(|found| found == exe)) {
        return name.to_string_lossy().into_owned();
    }
    match std::env::current_dir().ok().and_then(|here| exe.strip_prefix(here).ok().map(std::path::Path::to_owned)) {
        Some(relative) => format!("./{}", relative.display()),
        None => exe.display().to_string(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn linux_tells() {
        let (rss_bytes, _) = super::process_usage();
        assert!(rss_bytes > 100_000);
    }
}
