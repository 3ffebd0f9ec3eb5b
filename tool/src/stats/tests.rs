//! How figures are written for people.

use super::*;
use protobuf::MessageField;

fn v2() -> Report {
    let psi = PSIStats {
        some: MessageField::some(PSIData {
            avg10: 1.5,
            total: 7,
            ..PSIData::default()
        }),
        ..PSIStats::default()
    };
    let metrics = cgroups_v2::Metrics {
        cpu: MessageField::some(cgroups_v2::CPUStat {
            usage_usec: 2_500_000,
            nr_periods: 10,
            nr_throttled: 4,
            throttled_usec: 250_000,
            psi: MessageField::some(psi),
            ..Default::default()
        }),
        memory: MessageField::some(cgroups_v2::MemoryStat {
            usage: 3 << 20,
            usage_limit: u64::MAX,
            ..Default::default()
        }),
        memory_events: MessageField::some(cgroups_v2::MemoryEvents {
            high: 5,
            oom_kill: 2,
            ..Default::default()
        }),
        pids: MessageField::some(cgroups_v2::PidsStat {
            current: 3,
            limit: 100,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut report = Report {
        id: "web".into(),
        status: "running".into(),
        pid: 7,
        ..Report::default()
    };
    report.add(&Metrics::V2(metrics));
    report.figures.push(("pids", "zombies", 1));
    report
}

#[test]
fn people_are_told_what_there_is() {
    let expected = "\
web  running, pid 7
  cpu       2.50 s used, 0.00 s in programs, 0.00 s in the kernel, throttled in 4 of 10 periods for 0.25 s
  memory    3.0 MiB without a limit, 5 times over memory.high, 2 killed for want of it
  pids      3 of 100, 1 zombies
  pressure  share of time in which some or all wait, in the last 10, 60, 300 s:
    cpu     some 1.50 0.00 0.00 %
";
    assert_eq!(v2().text(), expected);
}

#[test]
fn programs_are_told_the_same() {
    let json = v2().json();
    assert_eq!(json["cpu"]["throttled_usec"], 250_000);
    assert_eq!(json["memory"]["limit"], Value::Null);
    assert_eq!(json["memory"]["high_events"], 5);
    assert_eq!(
        json["pids"],
        json!({"current": 3, "limit": 100, "zombies": 1})
    );
    assert_eq!(json["pressure"]["of"], "container");
    assert_eq!(json["pressure"]["cpu"]["some"]["total_usec"], 7);
    assert_eq!(json["pressure"]["cpu"]["full"], Value::Null);
}

#[test]
fn on_v1_pressure_is_the_hosts_and_limits_have_their_own_words() {
    let mut report = Report::default();
    let memory = cgroups_v1::MemoryStat {
        usage: MessageField::some(cgroups_v1::MemoryEntry {
            limit: 9_223_372_036_854_771_712,
            usage: 5 << 10,
            failcnt: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    report.add(&Metrics::V1(cgroups_v1::Metrics {
        memory: MessageField::some(memory),
        pids: MessageField::some(cgroups_v1::PidsStat::default()),
        ..Default::default()
    }));
    assert_eq!(report.json()["pressure"]["of"], "host");
    let text = report.text();
    assert!(text.contains("5 KiB without a limit"), "{text}");
    assert!(text.contains("3 times at the limit"), "{text}");
    assert!(text.contains("0 without a limit"), "{text}");
    assert!(!text.contains("s used"), "{text}");
}

#[test]
fn other_stats_are_refused() {
    let other = Any {
        type_url: "x.Metrics".into(),
        ..Any::default()
    };
    assert!(metrics(&other).is_err());
}

#[test]
fn who_put_execs_into_it() {
    let mut report = v2();
    assert!(!report.text().contains("execs") && report.json().get("execs").is_none());
    let rows = r#"{"execs by": [
        {"container": "web", "by": "shim", "reason": null, "execs": 7},
        {"container": "web", "by": "runtime", "reason": "it has a terminal", "execs": 2},
        {"container": "other", "by": "shim", "reason": null, "execs": 9}]}"#;
    report.execs = execs(&Dump::from_json(rows).unwrap(), "web");
    let told = "  execs     7 by the shim, 2 by the runtime (it has a terminal)\n";
    assert!(report.text().contains(told), "{}", report.text());
    let expected = json!({"by_shim": 7, "by_runtime": {"it has a terminal": 2}});
    assert_eq!(report.json()["execs"], expected);
}
