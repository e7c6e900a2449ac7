#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use super::*;

/// One file as two processes have it open, and its descriptor.
fn pair() -> (ConnectionFile, ConnectionFile, OwnedFd) {
    let (supervisor, descriptor) = ConnectionFile::create().unwrap();
    let worker = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
    (supervisor, worker, descriptor)
}

fn ends(port: u16) -> Ends {
    (format!("10.0.0.1:{port}").parse().unwrap(), "[2001:db8::25]:25".parse().unwrap())
}

#[test]
fn what_a_worker_wrote_is_there_after_its_death_and_what_it_ended_is_not() {
    let (supervisor, worker, _descriptor) = pair();
    let process = ProcessId::random();
    worker.begin(&process).unwrap();
    let entries: Vec<Entry> = (0..3).map(|slot| worker.reserve("mx.example.org", slot).unwrap()).collect();
    worker.connected(entries[0], ends(1).0, ends(1).1);
    worker.connected(entries[1], ends(2).0, ends(2).1);
    worker.note(Note::Ended(entries[1]));
    assert_eq!(supervisor.bury(BootTime::now()).unwrap(), [(entries[0], ends(1))], "the third has no ends");
    let [predecessor] = &supervisor.predecessors().unwrap()[..] else { panic!("one process") };
    assert_eq!((&*predecessor.process, predecessor.complete), (process.as_str(), true));
    assert!(predecessor.died.is_some());
    assert_eq!(predecessor.connections.len(), 2, "{predecessor:?}");
    assert!(predecessor.connections.iter().all(|left| left.pool == "mx.example.org"));
    supervisor.strike(entries[0]).unwrap();
    assert_eq!(supervisor.predecessors().unwrap()[0].connections.len(), 1);
}

#[test]
fn only_the_living_use_their_ends() {
    let (supervisor, first, descriptor) = pair();
    first.begin(&ProcessId::random()).unwrap();
    let entry = first.reserve("a", 1).unwrap();
    first.connected(entry, ends(1).0, ends(1).1);
    supervisor.bury(BootTime::now()).unwrap();
    let second = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
    second.begin(&ProcessId::random()).unwrap();
    let entry = second.reserve("a", 1).unwrap();
    second.connected(entry, ends(2).0, ends(2).1);
    assert_eq!(supervisor.in_use().unwrap(), BTreeSet::from([ends(2)]));
}

#[test]
fn a_successor_sees_its_predecessors_and_neither_its_own_nor_an_id_twice() {
    let (_supervisor, first, descriptor) = pair();
    first.begin(&ProcessId::random()).unwrap();
    first.reserve("a", 1).unwrap();
    first.reserve("b", 2).unwrap();
    let second = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
    second.begin(&ProcessId::random()).unwrap();
    let reused = second.reserve("a", 1).unwrap();
    second.note(Note::Ended(reused));
    let entry = second.reserve("a", 2).unwrap();
    assert_eq!(entry.line, reused.line);
    second.note(Note::Ended(reused));
    second.note(Note::Withheld(reused, BootTime::now()));
    assert_eq!(written(&second.lines().unwrap()).len(), 3, "a late note of the slot before changes nothing");
    let predecessors = second.predecessors().unwrap();
    assert_eq!(predecessors.len(), 1);
    let mut ids: Vec<&str> = predecessors[0].connections.iter().map(|left| &*left.id).collect();
    ids.sort_unstable();
    let process = &predecessors[0].process;
    assert_eq!(ids, [Left::id_of(process, 1), Left::id_of(process, 2)]);
}

#[test]
fn what_is_withheld_stays_written_down_until_its_time_is_over() {
    let (supervisor, worker, _descriptor) = pair();
    worker.begin(&ProcessId::random()).unwrap();
    let (early, late) = (BootTime::now(), BootTime::now() + Duration::from_secs(300));
    let over = worker.reserve("a", 1).unwrap();
    worker.connected(over, ends(1).0, ends(1).1);
    worker.note(Note::Withheld(over, early));
    let lasts = worker.reserve("a", 2).unwrap();
    worker.note(Note::Withheld(lasts, late));
    let until = |predecessors: &[Predecessor]| -> Vec<_> {
        predecessors[0].connections.iter().map(|left| left.until.map(moment)).collect()
    };
    assert_eq!(until(&supervisor.predecessors().unwrap()), [Some(moment(early)), Some(moment(late))]);
    // All other lines are taken: the one whose time is over makes room, though nobody struck it out.
    let room = (3..u64::from(MOST) + 2).filter(|slot| worker.reserve("a", *slot).is_some()).count();
    assert_eq!(room, MOST as usize - 1);
    assert_eq!(worker.reserve("a", 0), None);
    assert!(until(&supervisor.predecessors().unwrap()).contains(&Some(moment(late))));
    assert_eq!(supervisor.bury(BootTime::now()).unwrap(), [], "its line is another slot's, which has no ends");
}

#[test]
fn a_connection_that_cannot_be_written_down_makes_its_process_incomplete() {
    let (supervisor, worker, _descriptor) = pair();
    assert_eq!(worker.reserve("a", 1), None, "a process that is not known");
    worker.begin(&ProcessId::random()).unwrap();
    assert_eq!(worker.reserve(&"x".repeat(LINE), 1), None);
    assert!(!supervisor.predecessors().unwrap()[0].complete);
    assert!(worker.reserve("a", 2).is_some());
    assert!(!supervisor.predecessors().unwrap()[0].complete, "once incomplete, always incomplete");
}

#[test]
fn what_no_server_remembers_any_more_is_struck_out() {
    let (supervisor, worker, _descriptor) = pair();
    worker.begin(&ProcessId::random()).unwrap();
    worker.reserve("a", 1).unwrap();
    let died = BootTime::now();
    assert!(supervisor.bury(died).unwrap().is_empty(), "it has no ends");
    supervisor.bury(died + Duration::from_secs(24 * 3_600)).unwrap();
    assert_eq!(supervisor.predecessors().unwrap()[0].connections.len(), 1);
    supervisor.bury(died + Duration::from_secs(26 * 3_600)).unwrap();
    assert_eq!(supervisor.predecessors().unwrap()[0].connections.len(), 0);
}

#[test]
fn more_processes_than_lines_make_the_oldest_unknown_and_not_accounted_for() {
    let (supervisor, worker, descriptor) = pair();
    let first = ProcessId::random();
    worker.begin(&first).unwrap();
    for _ in 0..PROCESSES {
        let next = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
        next.begin(&ProcessId::random()).unwrap();
    }
    let known = supervisor.predecessors().unwrap();
    assert_eq!(known.len(), PROCESSES as usize);
    assert!(known.iter().all(|predecessor| predecessor.process != first.as_str()));
}
