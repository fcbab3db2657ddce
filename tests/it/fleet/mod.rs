//! The laws of a fleet, on virtual time: nobody starves, and what brings the hosts together does so once.
//! `tests/fleet` prints the whole table.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts and microseconds of days are far from what a float or an index holds"
)]

mod simulation;

use std::time::Duration;

use authorized_keys_agent::model::list::cadence;

use self::simulation::{Counted, Fleet, Index, Reached, Setting};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

fn setting(hosts: u32, pages: u32, every: Duration) -> Setting {
    Setting {
        hosts,
        pages,
        every,
        limit: 40.0,
        burst: 1.0,
        index: None,
    }
}

/// Hosts that have been polling for a while.
fn quiet(setting: Setting) -> Fleet {
    let mut fleet = Fleet::new(setting, 7);
    fleet.ask(setting.every);
    fleet.run(setting.every * 12);
    fleet
}

/// All ask within a second. What comes after the lists that were begun then, and until when all had one.
fn at_once(fleet: &mut Fleet, limit: Duration) -> (Counted, Reached) {
    fleet.change();
    fleet.ask(Duration::from_secs(1));
    fleet.run(Duration::from_secs(15));
    let rest = fleet.run_until_all_have_it(limit);
    (rest, fleet.reached())
}

/// AWS names a limit and no bucket: a small one and a large one.
fn buckets(setting: Setting) -> [Setting; 2] {
    [1.0, 10.0].map(|burst| Setting { burst, ..setting })
}

#[test]
fn what_brings_a_fleet_together_does_so_once() {
    // They ask five sixths of what the account may, or two thirds where a list takes many calls.
    let sizes = [
        setting(2_000, 1, MINUTE),
        setting(2_000, 3, MINUTE * 3),
        setting(400, 25, MINUTE * 6),
    ];
    for setting in sizes.into_iter().flat_map(buckets) {
        let every = setting.every.as_secs_f64();
        let calm = |what: &str, counted: &Counted| {
            // What a full bucket lets through in ten seconds, and a fourth.
            let most = setting.limit * (1.25 + setting.burst / 10.0);
            assert!(counted.busiest <= most, "{what}: {setting:?}: {counted:?}");
        };
        let in_time = |what: &str, reached: Reached| {
            let is = reached.most <= 2.0 * every && reached.all <= 3.0 * every;
            assert!(is, "{what}: {setting:?}: {reached:?}");
        };
        let mut fleet = Fleet::new(setting, 1);
        for what in ["a boot of all", "a push to all"] {
            let (rest, reached) = at_once(&mut fleet, setting.every * 20);
            calm(what, &rest);
            in_time(what, reached);
            fleet.run(setting.every * 12);
        }

        // Run Command: 50 at a time, each busy for two seconds.
        fleet.change();
        fleet.ask_in_turn(Duration::from_millis(40));
        fleet.run_until_all_have_it(setting.every * 20);
        in_time("a push to one after the other", fleet.reached());
        fleet.run(setting.every * 12);

        fleet.change();
        let steady = fleet.run(setting.every * 3);
        let reached = fleet.reached();
        calm("a quiet day", &steady);
        assert!(steady.throttled * 20 <= steady.calls, "{steady:?}");
        in_time("a quiet day", reached);

        fleet.set_down(true);
        fleet.run(HOUR);
        fleet.set_down(false);
        fleet.change();
        let back = fleet.run(HOUR);
        let reached = fleet.reached();
        calm("the end of an outage", &back);
        assert!(back.throttled * 20 <= back.calls, "{back:?}");
        assert!(reached.most <= 2.0 * every.max(600.0), "{reached:?}");
        assert!(reached.all <= 3.0 * every.max(600.0), "{reached:?}");
    }
}

#[test]
fn a_fleet_that_asks_too_much_gives_each_host_its_turn() {
    // Two, four and eight times what the account may.
    for setting in [
        setting(2_000, 3, MINUTE),
        setting(400, 25, MINUTE),
        setting(20_000, 1, MINUTE),
    ] {
        let due = f64::from(setting.hosts * setting.pages) / setting.limit;
        let mut fleet = Fleet::new(setting, 3);
        let (_, reached) = at_once(&mut fleet, HOUR * 6);
        assert!(reached.all <= 20.0 * due, "{setting:?}: {reached:?}");
        fleet.run(HOUR);
        fleet.change();
        let counted = fleet.run(HOUR);
        let reached = fleet.reached();
        let lists = f64::from(setting.pages) * counted.polls as f64 / counted.seconds;
        assert!(lists >= 0.85 * setting.limit, "{setting:?}: {counted:?}");
        assert!(counted.throttled * 3 <= counted.calls * 2, "{counted:?}");
        assert!(reached.most <= 5.0 * due, "{setting:?}: {reached:?}");
        assert!(reached.all <= 20.0 * due, "{setting:?}: {reached:?}");
    }
}

#[test]
fn a_fleet_is_as_quick_as_before_once_there_is_room_again() {
    let setting = setting(1_000, 1, MINUTE);
    let mut fleet = quiet(setting);
    fleet.set_limit(4.0);
    let slow = fleet.run(HOUR * 2);
    assert!(slow.throttled * 4 >= slow.calls, "{slow:?}");
    fleet.set_limit(40.0);
    // Every host polls soon, and within half an hour as often as it is told to.
    fleet.change();
    fleet.run(MINUTE * 30);
    assert!(fleet.reached().most <= 900.0, "{:?}", fleet.reached());
    fleet.run(MINUTE * 30);
    let again = fleet.run(MINUTE * 10);
    assert!(again.polls >= 9_500, "{again:?}");
    assert_eq!(again.throttled, 0, "{again:?}");
}

#[test]
fn an_index_makes_room() {
    let index = Index {
        limit: None,
        full_every: MINUTE * 15,
    };
    let plain = setting(400, 25, MINUTE);
    let [without, with] = [None, Some(index)].map(|index| {
        let mut fleet = quiet(Setting { index, ..plain });
        let counted = fleet.run(HOUR);
        fleet.change();
        fleet.run_until_all_have_it(HOUR);
        (counted, fleet.reached())
    });
    assert!(without.0.throttled * 10 >= without.0.calls, "{without:?}");
    assert!(with.0.throttled * 50 <= with.0.calls, "{with:?}");
    assert!(with.0.calls * 2 <= without.0.calls, "{with:?}");
    // A change is read by all at once, and takes what the limit takes.
    assert!(with.1.most <= 3.0 * 250.0, "{with:?}");
}

/// So the table may say something of a million hosts.
#[test]
fn a_tenth_of_the_hosts_with_a_tenth_of_the_limit_is_the_same_fleet() {
    let [whole, tenth] = [1, 10].map(|part| {
        let whole = setting(10_000, 1, MINUTE);
        let setting = Setting {
            hosts: whole.hosts / part,
            limit: whole.limit / f64::from(part),
            ..whole
        };
        let mut fleet = quiet(setting);
        fleet.change();
        let counted = fleet.run(HOUR);
        let share = counted.throttled as f64 / counted.calls as f64;
        (share, fleet.reached())
    });
    assert!((whole.0 - tenth.0).abs() < 0.03, "{whole:?} {tenth:?}");
    let close = |a: f64, b: f64| (a / b).ln().abs() < 0.2;
    assert!(close(whole.1.half, tenth.1.half), "{whole:?} {tenth:?}");
    assert!(close(whole.1.most, tenth.1.most), "{whole:?} {tenth:?}");
}
